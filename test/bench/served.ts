/** A backend with the embedded base, as the benchmarks start and ask it. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { adapterAnswerSchema, type SequenceRequest, type TokenFrame } from "../../shared/contracts/inference.ts";
import { type Backend, framesOf, startBackend } from "../support/backend-process.ts";
import { embeddedBase } from "../support/embedded-base.ts";

export async function withBackend<T>(
  settings: Record<string, string>,
  work: (backend: Backend) => Promise<T>,
): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), "chameleon-bench-"));
  const backend = await startBackend({ ...settings, MODEL_DIR: embeddedBase, DATA_DIR: folder });
  try {
    return await work(backend);
  } finally {
    backend.child.kill();
    await backend.exited;
    await rm(folder, { recursive: true });
  }
}

export async function generate(
  backend: Backend,
  sequences: SequenceRequest[],
  seen: (token: TokenFrame) => void = () => {},
): Promise<void> {
  for await (const frame of framesOf(await backend.post("/v1/batches", backend.batch(null, sequences)))) {
    if (frame.type === "error") throw new Error(frame.message);
    if (frame.type === "token") seen(frame);
  }
}

/** Each example is learnt from its token `from` on. */
export async function makeAdapter(backend: Backend, tenant: string, examples: number[][], from: number) {
  const response = await backend.post("/v1/adapters", {
    ...{ version: 4, manifestHash: backend.manifestHash, tenant },
    examples: examples.map((ids) => ({ ids, from })),
  });
  if (!response.ok) throw new Error(await response.text());
  return adapterAnswerSchema.parse(await response.json());
}
