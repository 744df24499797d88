// Loads the networks into LiteRT.js and runs them. Each file takes the RGB bytes of the centre crop
// and gives logits, and of each place what it adds to each class: the mean of a class's places is
// its logit, so its map is exact (class activation mapping, arXiv:1512.04150).
import { loadLiteRt, loadAndCompile, Tensor } from "./runtime/index.js";

// The runtime tells all it does on standard error; only its faults are errors of this page.
const told = (line) => (/^(ERROR|FATAL)/.test(line) ? console.error : console.debug)(line);
globalThis.Module = { print: told, printErr: told };
const ready = loadLiteRt(new URL("runtime/wasm/", import.meta.url).href);
const loaded = new Map();

/** Returns the compiled network of a row of model.json's `files`, fetched once. */
export function load(row) {
  if (!loaded.has(row.file)) {
    const promise = fetchAndCompile(row);
    promise.catch(() => loaded.delete(row.file)); // so that the next choice tries again
    loaded.set(row.file, promise);
  }
  return loaded.get(row.file);
}

async function fetchAndCompile(row) {
  const [response] = await Promise.all([fetch(row.file), ready]);
  if (!response.ok) throw new Error(`${row.file} cannot be fetched (${response.status}).`);
  let content = new Uint8Array(await response.arrayBuffer());
  // By its first bytes, not its name: where the host calls gzip an encoding, it is undone by now.
  if (content[0] === 0x1f && content[1] === 0x8b) {
    const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
    content = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  return loadAndCompile(content, { accelerator: "wasm" });
}

/** Returns {probabilities, maps, side, milliseconds} for bytes [size, size, 3]. */
export async function run(network, pixels, temperature) {
  const [input] = network.getInputDetails();
  const values = input.dtype === "uint8" ? pixels : Float32Array.from(pixels);
  const tensor = new Tensor(values, [...input.shape]);
  const started = performance.now();
  const outputs = await network.run([tensor]);
  const milliseconds = performance.now() - started;
  const names = network.getOutputDetails().map((detail) => detail.name);
  const logits = outputs[names.indexOf("logits")].toTypedArray().slice();
  const maps = outputs[1 - names.indexOf("logits")];
  const result = {
    probabilities: softmax(logits, temperature),
    maps: maps.toTypedArray().slice(),
    side: maps.type.layout.dimensions[1],
    milliseconds,
  };
  for (const used of [tensor, ...outputs]) used.delete();
  return result;
}

function softmax(logits, temperature) {
  const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
  const powers = Float64Array.from(logits, (logit) => Math.exp((logit - most) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((power) => power / sum);
}
