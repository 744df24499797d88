// Loads the networks into LiteRT.js and runs them. Each network takes the RGB bytes of the centre crop
// and gives the logits and a map per class, whose mean is the class's logit (class-activation maps,
// arXiv:1512.04150).
import { loadLiteRt, loadAndCompile, Tensor } from "./runtime/index.js";

// The runtime logs everything to console.error; only its faults are errors of this page.
const told = (line) => (/^(ERROR|FATAL)/.test(line) ? console.error : console.debug)(line);
globalThis.Module = { print: told, printErr: told };
const ready = loadLiteRt(new URL("runtime/wasm/", import.meta.url).href);
const loaded = new Map();

/** Returns the compiled network of a row of model.json's `files`, fetched once. */
export function load(row) {
  if (!loaded.has(row.file)) {
    const promise = fetchAndCompile(row);
    promise.catch(() => loaded.delete(row.file)); // the next choice tries again
    loaded.set(row.file, promise);
  }
  return loaded.get(row.file);
}

async function fetchAndCompile(row) {
  const [response] = await Promise.all([fetch(new URL(row.file, import.meta.url)), ready]);
  if (!response.ok) throw new Error(`${row.file} cannot be fetched (${response.status}).`);
  let content = new Uint8Array(await response.arrayBuffer());
  // Decided by the first bytes, not the name: some hosts declare gzip, and the browser decodes it.
  if (content[0] === 0x1f && content[1] === 0x8b) {
    const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
    content = new Uint8Array(await new Response(stream).arrayBuffer());
  }
  return loadAndCompile(content, { accelerator: "wasm" });
}

/**
 * Returns {probabilities, maps, side, known, milliseconds} for bytes [size, size, 3]. `known` is 0 to
 * 1, below 0.5 for an image like none that the network was trained on; 1 if it does not say.
 */
export async function run(network, pixels, temperature) {
  const [input] = network.getInputDetails();
  const values = input.dtype === "uint8" ? pixels : Float32Array.from(pixels);
  const tensor = new Tensor(values, [...input.shape]);
  const started = performance.now();
  const outputs = await network.run([tensor]);
  const milliseconds = performance.now() - started;
  const names = network.getOutputDetails().map((detail) => detail.name);
  const logits = outputs[names.indexOf("logits")].toTypedArray().slice();
  const maps = outputs[names.findIndex((name) => name !== "logits" && name !== "known")];
  const score = outputs[names.indexOf("known")];
  const result = {
    probabilities: softmax(logits, temperature),
    maps: maps.toTypedArray().slice(),
    known: score ? score.toTypedArray()[0] : 1,
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
