/** The fitter's process: a fit takes a second of computing, which neither HTTP nor the engine can spare. */
import { collectGarbage } from "../../runtime/garbage.ts";
import { readArtifacts } from "../artifacts.ts";
import { type FitRequest, type FitResult, Fitter } from "./fitter.ts";

/** What the process starts with, as JSON in its one argument. */
export interface FitFolders {
  modelDirectory: string;
  artifactsDirectory: string;
}

/** Answers to requests, in their order. */
export type FitAnswer = { ok: true; result: FitResult } | { ok: false; message: string };

if (!process.send) throw new Error("fit-process.ts runs as a child process; start main.ts");
const toParent = process.send.bind(process);
// Its parent decides when it ends: a terminal, or a service manager, gives signals to both.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
process.once("disconnect", () => process.exit());
const opening = open(JSON.parse(process.argv[2]));
// Each answer tells of it.
opening.catch(() => {});

let last: Promise<void> = Promise.resolve();
process.on("message", (request: FitRequest) => {
  last = last.then(async () => void toParent(await answer(request), undefined, undefined, () => {}));
});

async function open({ modelDirectory, artifactsDirectory }: FitFolders): Promise<Fitter> {
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
