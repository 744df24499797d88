/* Reads files for the programs of this folder. */
#ifndef CONTENT_H
#define CONTENT_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/* Returns a file's bytes in a block of exactly their size; ends the program if it cannot be read. */
static uint8_t *content(const char *name, size_t *bytes)
{
    FILE *file = fopen(name, "rb");
    uint8_t *data;

    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        exit(100);
    }
    *bytes = (size_t)ftell(file);
    rewind(file);
    data = malloc(*bytes + (*bytes == 0));
    if (data == NULL || fread(data, 1, *bytes, file) != *bytes) {
        exit(100);
    }
    fclose(file);
    return data;
}

#endif
