/** The fitter's process: a fit takes a second of computing, which neither HTTP nor the engine can spare. */
import { readArtifacts } from "../../engine/artifacts.ts";
import { collectGarbage } from "../../runtime/garbage.ts";
import { type FitRequest, type FitResult, FitTurns, Fitter } from "./fitter.ts";

/** What the process starts with, as JSON in its one argument. */
export interface FitFolders {
  modelDirectory: string;
  artifactsDirectory: string;
}

/** A fit to make; null cancels the one of that id. */
export interface ToFitter {
  id: number;
  request: FitRequest | null;
}

export type FitAnswer = { id: number } & ({ ok: true; result: FitResult } | { ok: false; message: string });

if (!process.send) throw new Error("fit-process.ts runs as a child process; start main.ts");
const toParent = process.send.bind(process);
// The parent decides when this process ends; a terminal or a service manager signals both.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
process.once("disconnect", () => process.exit());
const opening = open(JSON.parse(process.argv[2]));
// Each answer reports the error.
opening.catch(() => {});
const turns = new FitTurns();

process.on("message", async ({ id, request }: ToFitter) => {
  if (!request) turns.cancel(id);
  else toParent(await answer(id, request), undefined, undefined, () => {});
});

async function open({ modelDirectory, artifactsDirectory }: FitFolders): Promise<Fitter> {
  // One thread, as the engine serves meanwhile.
  const artifacts = await readArtifacts(modelDirectory, artifactsDirectory);
  const fitter = await Fitter.open(artifacts, 1).finally(artifacts.model.close);
  collectGarbage();
  return fitter;
}

async function answer(id: number, request: FitRequest): Promise<FitAnswer> {
  turns.open(id);
  try {
    const result = await (await opening).fit(request, (positions, work) => turns.run(id, positions, work));
    return { id, ok: true, result };
  } catch (error) {
    return { id, ok: false, message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  } finally {
    turns.cancel(id);
  }
}
