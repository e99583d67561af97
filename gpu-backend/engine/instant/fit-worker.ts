/** The fitter's thread: a fit takes a second of computing, which neither HTTP nor the engine can spare. */
import { parentPort, workerData } from "node:worker_threads";
import { readArtifacts } from "../artifacts.ts";
import { type FitRequest, type FitResult, Fitter } from "./fitter.ts";

/** What the worker starts with. */
export interface FitFolders {
  modelDirectory: string;
  artifactsDirectory: string;
}

/** Answers to requests, in their order. */
export type FitAnswer = { ok: true; result: FitResult } | { ok: false; message: string };

if (!parentPort) throw new Error("fit-worker.ts runs as a worker thread; start main.ts");
const port = parentPort;
const { modelDirectory, artifactsDirectory } = workerData as FitFolders;
const opening = readArtifacts(modelDirectory, artifactsDirectory).then((artifacts) =>
  // One thread: others serve meanwhile.
  Fitter.open(artifacts, 1),
);

let last: Promise<void> = Promise.resolve();
port.on("message", (request: FitRequest) => {
  last = last.then(async () => port.postMessage(await answer(request)));
});

async function answer(request: FitRequest): Promise<FitAnswer> {
  try {
    const { parts, gain, file } = await (await opening).fit(request);
    return { ok: true, result: { parts, gain, file } };
  } catch (error) {
    return { ok: false, message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}
