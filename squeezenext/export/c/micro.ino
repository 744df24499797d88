// Classifies one grey frame. Put your camera's frame in the place of `frame`.
#include <model.h>
#include <pixels.h>
#include <squeezenext.h>

static uint64_t arena[(MODEL_ARENA + 7) / 8];
static int32_t logits[MODEL_CLASSES];
static uint8_t frame[96 * 96];
static sqz_network network;

void setup() {
  Serial.begin(115200);
  if (sqz_open(&network, model_file, sizeof model_file) != SQZ_OK) {
    Serial.println("The file is damaged.");
  }
}

void loop() {
  sqz_fill(sqz_pixels(&network, arena), MODEL_SIZE, MODEL_RESIZE, frame, 96, 96, SQZ_GREY);
  if (sqz_run(&network, arena, sizeof arena, logits) == SQZ_OK) {
    Serial.println(model_labels[sqz_best(logits, network.classes)]);
  }
}
