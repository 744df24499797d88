#!/bin/bash
# Builds an exported folder for Cortex-M4 and Cortex-M55 and runs its test images in QEMU.
#
#     bash scripts/check_micro.sh DIR
#     bash scripts/check_micro.sh --photographs FOLDER
#
# The second form compares the C built for this machine with predict.py on all photographs of a
# folder, see scripts/micro/photographs.py. DIR is what `squeezenext.export --format micro` made. Debian: apt-get install gcc-arm-none-eabi
# libnewlib-arm-none-eabi qemu-system-arm. Flash has 512 KiB, RAM 256 KiB.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ ${1:-} == --photographs ]]; then
  exec python "$here/micro/photographs.py" "${2:?give a folder of photographs}"
fi
folder=${1:?give the folder that squeezenext.export --format micro made}
for tool in arm-none-eabi-gcc qemu-system-arm; do
  command -v "$tool" > /dev/null || { echo "$tool is absent; see the head of $0." >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

check() { # name, -mcpu, machine, start of RAM, MHz of SysTick
  echo "== $1"
  cat > "$work/link.ld" << LINK
MEMORY { FLASH (rx) : ORIGIN = 0, LENGTH = 512K
         RAM (rwx) : ORIGIN = $4, LENGTH = 256K }
SECTIONS {
  .text : { KEEP(*(.vectors)) *(.text*) *(.rodata*) . = ALIGN(8); data_from = .; } > FLASH
  .data : { data_start = .; *(.data*) . = ALIGN(4); data_end = .; } > RAM AT > FLASH
  .bss : { bss_start = .; *(.bss*) *(COMMON) . = ALIGN(8); bss_end = .; } > RAM
  stack_limit = bss_end;
  stack_top = ORIGIN(RAM) + LENGTH(RAM);
  /DISCARD/ : { *(.ARM.exidx*) }
}
LINK
  local flags=(-mcpu="$2" -mthumb -mfloat-abi=soft -std=gnu99 -Os -ffunction-sections -Wall -Wextra)
  arm-none-eabi-gcc "${flags[@]}" -c "$folder/src/squeezenext.c" -o "$work/runtime.o"
  arm-none-eabi-size "$work/runtime.o" | awk 'NR == 2 { print "bytes of code: " $1 }'
  arm-none-eabi-gcc "${flags[@]}" -DMEGAHERTZ="$5" -I"$folder/src" -I"$folder/test" \
    "$here/micro/qemu.c" "$folder/src/model.c" "$folder/test/tests.c" -nostartfiles \
    -Wl,--gc-sections -T "$work/link.ld" -o "$work/micro.elf"
  timeout 600 qemu-system-arm -M "$3" -nographic -monitor none -serial none \
    -semihosting-config enable=on,target=native -icount shift=0 -kernel "$work/micro.elf"
}

check Cortex-M4 cortex-m4 mps2-an386 0x20000000 25
check Cortex-M55 cortex-m55 mps3-an547 0x30000000 32
