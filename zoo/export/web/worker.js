// Decodes pictures and runs the network, beside the page, so that the page stays responsive.
//
// The page sends {id, file} or {id, frame}, and receives {id, probabilities, score, seconds} or {id, error}.
// Before that it receives {loaded, total} while the files arrive, and {ready} or {failed}.

import { inputOfFile, inputOfFrame } from "./decode.js";
import { PictureError } from "./picture-file.js";

let session;
let info;
let ort;

function here(name) {
  return new URL(name, import.meta.url).href;
}

async function fetched(name) {
  const response = await fetch(here(name));
  if (!response.ok) throw new Error(`${name} is missing on the server (status ${response.status}).`);
  return response;
}

// Return the bytes of a file, and report how many have arrived.
async function download(name, report) {
  const reader = (await fetched(name)).body.getReader();
  const parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    report(value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

async function start() {
  info = await (await fetched("model.json")).json();
  const { engine, model } = info.bytes;
  let loaded = 0;
  const report = (bytes) => {
    loaded += bytes;
    postMessage({ loaded, total: engine + model });
  };
  const wasm = "ort/ort-wasm-simd-threaded.wasm";
  const [module, wasmBinary, bytes] = await Promise.all([
    import("./ort/ort.wasm.min.mjs"),
    download(wasm, report),
    download("model.onnx", report),
  ]);
  ort = module;
  // Threads would need headers that simple servers do not send.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = wasmBinary;
  ort.env.wasm.wasmPaths = { mjs: here("ort/ort-wasm-simd-threaded.mjs") };
  session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  postMessage({ ready: true });
}

async function predict(input) {
  const { size, channels } = info.image;
  const tensor = new ort.Tensor("uint8", input, [1, ...size, channels]);
  const outputs = await session.run({ image: tensor });
  const score = outputs.outlier_score?.data[0] ?? null;
  return { probabilities: Array.from(outputs.probabilities.data), score };
}

async function answer({ id, file, frame }) {
  const started = performance.now();
  try {
    const input = file ? await inputOfFile(file, info.image) : inputOfFrame(frame, info.image);
    const outputs = await predict(input);
    postMessage({ id, ...outputs, seconds: (performance.now() - started) / 1000 });
  } catch (error) {
    if (!(error instanceof PictureError)) console.error(error);
    postMessage({ id, error: error instanceof PictureError ? error.message : `The picture was not labeled: ${error.message}` });
  }
}

// Pictures wait for the network, and for each other.
let last = start().catch((error) => {
  console.error(error);
  postMessage({ failed: error.message });
  throw error;
});

addEventListener("message", ({ data }) => {
  last = last.then(() => answer(data));
  last.catch(() => {});
});
