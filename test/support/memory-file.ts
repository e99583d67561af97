/** Builds the files of memories. An engine on this thread computes their keys. */
import type { Artifacts } from "../../gpu-backend/engine/artifacts.ts";
import { type DocumentTokens, packMemoryHead } from "../../gpu-backend/memory/memory.ts";
import type { StepRunner } from "../../gpu-backend/runtime/step.ts";
import { createEngineHarness, sequenceRequest } from "./engine-harness.ts";

/** The file of a memory of these documents. Each must be shorter than the context. */
export async function memoryFileOf(
  { tokenizer, model: { config }, manifestHash }: Artifacts,
  runner: StepRunner,
  texts: readonly [name: string, text: string][],
): Promise<Uint8Array> {
  const documents = texts.map(([name, text]): DocumentTokens => {
    const ids = Int32Array.from(tokenizer.encode(text));
    let end = 0;
    return { name, ids, ends: ids.map((id) => (end += tokenizer.textPieceOf(id).length)) };
  });
  const target = createEngineHarness({ runner });
  const keys = new Map<string, Uint8Array>();
  const requests = documents.map(({ name, ids }) => sequenceRequest(name, [...ids], { maxTokens: 0 }));
  await target.engine.submit(null, requests, {
    kind: "keys",
    take: (id, values) => {
      keys.set(id, Buffer.from(values.buffer).subarray(0, -config.hiddenSize));
    },
  });
  await target.finish();
  const head = packMemoryHead(documents, config.hiddenSize, manifestHash);
  return Buffer.concat([head, ...documents.map(({ name }) => keys.get(name)!)]);
}
