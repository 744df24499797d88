/* Runs the test images through the network and compares the logits: `make check`. */
#include <stdio.h>
#include <string.h>

#include "model.h"
#include "squeezenext.h"
#include "tests.h"

static uint64_t arena[(MODEL_ARENA + 7) / 8];
static int32_t logits[MODEL_CLASSES];

int main(void)
{
    sqz_network network;
    int status = sqz_open(&network, model_file, sizeof model_file), wrong = 0, i;

    if (status != SQZ_OK) {
        printf("The file cannot be read: %d.\n", status);
        return 1;
    }
    for (i = 0; i < TEST_IMAGES; i++) {
        memcpy(sqz_pixels(&network, arena), test_pixels[i], sizeof test_pixels[i]);
        status = sqz_run(&network, arena, sizeof arena, logits);
        if (status != SQZ_OK || memcmp(logits, test_logits[i], sizeof logits) != 0) {
            wrong++;
        }
        printf("%s: %s\n", model_labels[sqz_best(logits, network.classes)],
               status == SQZ_OK ? "computed" : "failed");
    }
    printf("%d of %d images differ from predict.py.\n", wrong, TEST_IMAGES);
    return wrong != 0;
}
