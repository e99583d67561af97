/** Fits own adapters in a process, because a fit computes for seconds and would block HTTP or the engine. */
import { readArtifacts } from "../../engine/artifacts.ts";
import type { EngineSettings } from "../../engine/messages.ts";
import { collectGarbage } from "../../runtime/garbage.ts";
import { type FitRequest, type FitResult, FitTurns, openFitter } from "./fitter.ts";

export type FitFolders = Pick<EngineSettings, "modelDirectory" | "artifactsDirectory">;

export interface ToFitter {
  id: number;
  request: FitRequest | null;
}

export type FitAnswer = { id: number } & ({ ok: true; result: FitResult } | { ok: false; message: string });

if (!process.send) throw new Error("fit-process.ts runs as a child process; start main.ts");
const toParent = process.send.bind(process);
// Signals are ignored, because a terminal or service manager also sends them to the parent, and the parent ends this process.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.on(signal, () => {});
process.once("disconnect", () => process.exit());
const opening = open(JSON.parse(process.argv[2]));
// A failure of `opening` is reported by the answer to every fit.
opening.catch(() => {});
const turns = new FitTurns();

process.on("message", async ({ id, request }: ToFitter) => {
  if (!request) turns.cancel(id);
  else toParent(await answer(id, request), undefined, undefined, () => {});
});

async function open({ modelDirectory, artifactsDirectory }: FitFolders) {
  const artifacts = await readArtifacts(modelDirectory, artifactsDirectory);
  const fitAdapter = await openFitter(artifacts).finally(artifacts.model.close);
  collectGarbage();
  return fitAdapter;
}

async function answer(id: number, request: FitRequest): Promise<FitAnswer> {
  turns.open(id);
  try {
    const fitAdapter = await opening;
    const result = await fitAdapter(request, (positions, work) => turns.run(id, positions, work));
    return { id, ok: true, result };
  } catch (error) {
    return { id, ok: false, message: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  } finally {
    turns.cancel(id);
  }
}
