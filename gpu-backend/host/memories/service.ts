import type { MemoryRequest } from "../../../shared/contracts/inference.ts";
import { memoryHash } from "../../../shared/contracts/memory-hash.ts";
import { ServiceError } from "../../../shared/errors.ts";
import { requireManifest } from "../../engine/refusals.ts";
import type { TenantStore } from "../../tenant-files/tenant-store.ts";
import { type EngineClient, tracedPrompt } from "../client.ts";
import { cancelled, MakingQueue } from "../own-adapters/making-queue.ts";
import { MemoryBuild } from "./build.ts";
import { type DocumentTokenizer, encodeDocuments } from "./document-windows.ts";

export interface MemoryServiceParts {
  setOf(hash: string): { engine: Pick<EngineClient, "keysOf" | "info">; tokenizer(): Promise<DocumentTokenizer> };
  store: TenantStore;
  dropMemory(tenant: string, hash: string | null): void;
  newId(): string;
}

export interface RunningBuild {
  build: Pick<MemoryBuild, "tokens" | "totalTokens" | "computedTokens">;
  ready: Promise<number>;
}

export class MemoryService {
  readonly store: TenantStore;
  readonly #parts: MemoryServiceParts;
  readonly #queue = new MakingQueue("memories");
  readonly #running = new Set<{ tenant: string; hash: string; deletion: AbortController; ended: Promise<void> }>();

  constructor(parts: MemoryServiceParts) {
    this.#parts = parts;
    this.store = parts.store;
  }

  /** `ready` rejects with `cancelled` on abort, with `memory_deleted` after `remove`. */
  async begin(tenant: string, hash: string, request: MemoryRequest, signal: AbortSignal): Promise<RunningBuild> {
    const { manifestHash, documents } = request;
    const { engine, tokenizer } = this.#parts.setOf(manifestHash);
    const { contextTokens, hiddenSize } = requireManifest(engine.info, manifestHash).manifest.model;
    const found = await memoryHash(tenant, manifestHash, documents);
    if (found !== hash) {
      throw new ServiceError("invalid_request", `The documents' hash for this tenant is ${found}, not ${hash}.`);
    }
    const deletion = new AbortController();
    const { promise: ended, resolve } = Promise.withResolvers<void>();
    const running = { tenant, hash, deletion, ended };
    this.#running.add(running);
    const end = () => {
      this.#running.delete(running);
      resolve();
    };
    try {
      const build = new MemoryBuild({
        ...{ tenant, hash, manifestHash, contextTokens, hiddenSize, store: this.store },
        documents: await encodeDocuments(await tokenizer(), documents),
        keysOf: (prompts, stop) => {
          const batch = this.#parts.newId();
          const sequences = prompts.map((promptIds, i) => tracedPrompt(`memory-${batch}-${i}`, tenant, promptIds));
          // Another set may have replaced the manifest's set in the meantime.
          const { engine } = this.#parts.setOf(manifestHash);
          requireManifest(engine.info, manifestHash);
          return engine.keysOf(sequences, stop);
        },
      });
      const stop = AbortSignal.any([signal, deletion.signal]);
      return { build, ready: this.#make(build, tenant, stop).finally(end) };
    } catch (error) {
      end();
      throw error;
    }
  }

  /** If `hash` is null, removes all memories of the tenant. */
  async remove(tenant: string, hash: string | null): Promise<void> {
    const meant = [...this.#running].filter((one) => one.tenant === tenant && (hash === null || one.hash === hash));
    const deleted = new ServiceError("memory_deleted", "The memory was deleted while it was made.");
    for (const { deletion } of meant) deletion.abort(deleted);
    await Promise.all(meant.map(({ ended }) => ended));
    if (hash === null) await this.store.removeAll(tenant);
    else await this.store.remove(tenant, hash);
    this.#parts.dropMemory(tenant, hash);
  }

  async #make(build: MemoryBuild, tenant: string, signal: AbortSignal): Promise<number> {
    try {
      const there = await build.find();
      if (there !== null) return there;
      const end = await this.#queue.enter(tenant, signal);
      return await build.run(signal).finally(end);
    } catch (error) {
      if (!signal.aborted) throw error;
      throw signal.reason instanceof ServiceError ? signal.reason : cancelled(signal);
    }
  }
}
