/* Makes the pixels that the network reads: the centre of a camera's frame, resized. */
#ifndef SQUEEZENEXT_PIXELS_H
#define SQUEEZENEXT_PIXELS_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    SQZ_RGB888, /* 3 bytes: red, green, blue */
    SQZ_RGB565, /* 2 bytes, the high one first, as OV2640 and OV7670 send them */
    SQZ_GREY    /* 1 byte */
} sqz_camera;

/* Fills `pixels`, size x size x 3 bytes, from a frame of width x height.
 *
 * The centre square that a photograph of short side `resize` would be cut to is averaged over the
 * area of each pixel. `size` and `resize` are those of model.h; frames have at most 4,096 pixels a
 * side. The frame must not overlap the pixels. */
void sqz_fill(uint8_t *pixels, uint16_t size, uint16_t resize, const uint8_t *frame, uint16_t width,
              uint16_t height, sqz_camera camera);

#ifdef __cplusplus
}
#endif
#endif
