/** The fitter's thread: a fit takes a second of computing, which neither HTTP nor the engine can spare. */
import { parentPort, workerData } from "node:worker_threads";
import { collectGarbage } from "../../runtime/garbage.ts";
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
const opening = open();

let last: Promise<void> = Promise.resolve();
port.on("message", (request: FitRequest) => {
  last = last.then(async () => port.postMessage(await answer(request)));
});

async function open(): Promise<Fitter> {
  // One thread: others serve meanwhile.
  const fitter = await Fitter.open(await readArtifacts(modelDirectory, artifactsDirectory), 1);
  collectGarbage();
  return fitter;
}

async function answer(request: FitRequest): Promise<FitAnswer> {
  try {
    const { parts, gain, file } = await (await opening).fit(request);
    return { ok: true, result: { parts, gain, file } };
  } catch (error) {
    return { ok: false, message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}
