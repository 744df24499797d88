/* pixels CAMERA WIDTH HEIGHT SIZE RESIZE < frame > pixels */
#include <stdio.h>
#include <stdlib.h>

#include "../../squeezenext/export/c/pixels.c"

int main(int count, char **words)
{
    int camera = atoi(words[1]), width = atoi(words[2]), height = atoi(words[3]);
    int size = atoi(words[4]), resize = atoi(words[5]);
    size_t bytes = (size_t)width * (size_t)height * (size_t)(3 - camera);
    uint8_t *frame = malloc(bytes), *pixels = malloc((size_t)size * (size_t)size * 3);

    if (count != 6 || fread(frame, 1, bytes, stdin) != bytes) {
        return 1;
    }
    sqz_fill(pixels, (uint16_t)size, (uint16_t)resize, frame, (uint16_t)width, (uint16_t)height,
             (sqz_camera)camera);
    fwrite(pixels, 3, (size_t)size * (size_t)size, stdout);
    free(frame);
    free(pixels);
    return 0;
}
