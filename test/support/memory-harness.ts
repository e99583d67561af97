/** Engines that read tenants' memories, on the small base. */
import { readArtifacts } from "../../gpu-backend/engine/artifacts.ts";
import { type DocumentTokens, packMemoryHead } from "../../gpu-backend/memory/memory.ts";
import { MemoryCache } from "../../gpu-backend/memory/memory-cache.ts";
import { defaultMemoryRule as rule } from "../../shared/math/memory.ts";
import { type EngineHarness, sequenceRequest } from "./engine-harness.ts";
import { openModelHarness } from "./model-harness.ts";
import { smallArtifacts, smallBase } from "./small-base.ts";

/** Words of three kinds of text, which have little in common. */
export const kinds = {
  river: ["the", "lazy", "river", "carries", "its", "boats", "past", "quiet", "mills"],
  sql: ["SELECT", "name", "FROM", "users", "WHERE", "id", "=", "42", "ORDER", "BY"],
  chess: ["e4", "e5", "Nf3", "Nc6", "Bb5", "a6", "Ba4", "Nf6", "O-O", "Be7"],
};

/** Opens the small base. `files`: `tenant/hash` → memory. */
export async function openMemoryHarness() {
  const model = await openModelHarness(await readArtifacts(smallBase, smallArtifacts));
  const { tokenizer, manifestHash, model: served } = model.artifacts;
  const files = new Map<string, Uint8Array>();
  const source = { read: async (tenant: string, hash: string) => files.get(`${tenant}/${hash}`) ?? null };
  const shape = { manifestHash, ...served.config };

  type Options = NonNullable<Parameters<typeof model.harness>[0]>;
  function harness({ cacheBytes = 2 ** 30, ...options }: Options & { cacheBytes?: number } = {}): EngineHarness {
    const { neighbours } = rule;
    const cache = new MemoryCache({ source, shape, neighbours, threads: 2, maximumBytes: cacheBytes });
    return model.harness({ memories: { cache, rule }, ...options });
  }

  /** The file of a memory. Each document must be shorter than the context. */
  async function fileOf(texts: readonly [name: string, text: string][]): Promise<Uint8Array> {
    const documents = texts.map(([name, text]): DocumentTokens => {
      const ids = Int32Array.from(tokenizer.encode(text));
      let end = 0;
      return { name, ids, ends: ids.map((id) => (end += tokenizer.textPieceOf(id).length)) };
    });
    const keys = new Map<string, Uint8Array>();
    const requests = documents.map(({ name, ids }) => sequenceRequest(name, [...ids], { maxTokens: 0 }));
    const take = (id: string, { buffer }: { buffer: ArrayBufferLike }) =>
      void keys.set(id, new Uint8Array(buffer).subarray(0, -shape.hiddenSize));
    const target = model.harness();
    await target.engine.submit(null, requests, { kind: "keys", take });
    await target.finish();
    const head = packMemoryHead(documents, shape.hiddenSize, manifestHash);
    return Buffer.concat([head, ...documents.map(({ name }) => keys.get(name)!)]);
  }

  return { ...model, files, shape, encode: (text: string) => tokenizer.encode(text), harness, fileOf };
}
