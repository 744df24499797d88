/* See pixels.h. */
#include "pixels.h"

static void add(uint32_t *sums, const uint8_t *frame, uint32_t place, sqz_camera camera)
{
    if (camera == SQZ_RGB888) {
        sums[0] += frame[3 * place];
        sums[1] += frame[3 * place + 1];
        sums[2] += frame[3 * place + 2];
    } else if (camera == SQZ_RGB565) {
        uint32_t high = frame[2 * place], low = frame[2 * place + 1];
        uint32_t red = high >> 3, green = (high & 7) << 3 | low >> 5, blue = low & 31;

        sums[0] += red << 3 | red >> 2;
        sums[1] += green << 2 | green >> 4;
        sums[2] += blue << 3 | blue >> 2;
    } else {
        sums[0] += frame[place];
        sums[1] += frame[place];
        sums[2] += frame[place];
    }
}

void sqz_fill(uint8_t *pixels, uint16_t size, uint16_t resize, const uint8_t *frame, uint16_t width,
              uint16_t height, sqz_camera camera)
{
    uint32_t shorter = width < height ? width : height, x, y, i, j, c;
    uint32_t side = shorter * size / resize; /* of the square that is seen */
    uint32_t left = (width - side) / 2, top = (height - side) / 2;

    for (y = 0; y < size; y++) {
        uint32_t from = top + y * side / size, to = top + (y + 1) * side / size;

        for (x = 0; x < size; x++) {
            uint32_t start = left + x * side / size, end = left + (x + 1) * side / size;
            uint32_t sums[3] = {0, 0, 0}, count = 0;

            for (i = from; i < (to > from ? to : from + 1); i++) {
                for (j = start; j < (end > start ? end : start + 1); j++) {
                    add(sums, frame, i * width + j, camera);
                    count++;
                }
            }
            for (c = 0; c < 3; c++) {
                *pixels++ = (uint8_t)((sums[c] + count / 2) / count);
            }
        }
    }
}
