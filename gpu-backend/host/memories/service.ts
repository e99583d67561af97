/**
 * Makes and removes tenants' memories: documents run through the engine like other sequences, and their keys go to the disk as they
 * come. Not here: HTTP, the file of a memory (build.ts), and the search.
 */
import type { MemoryRequest } from "../../../shared/contracts/inference.ts";
import { memoryHash } from "../../../shared/contracts/memory-hash.ts";
import { ServiceError } from "../../../shared/errors.ts";
import type { EngineInfo } from "../../engine/messages.ts";
import { unavailable } from "../../engine/refusals.ts";
import type { TenantStore } from "../../tenant-files/tenant-store.ts";
import { type EngineClient, tracedPrompt } from "../client.ts";
import { cancelled, MakingQueue } from "../own-adapters/making-queue.ts";
import { MemoryBuild } from "./build.ts";
import { type DocumentTokenizer, encodeDocuments } from "./document-windows.ts";

interface MemorySet {
  engine: Pick<EngineClient, "keysOf" | "info">;
  tokenizer(): Promise<DocumentTokenizer>;
}

export interface MemoryServiceParts {
  /** The set that serves a manifest, or one of another. Throws a ServiceError if nothing is served. */
  setOf(manifestHash: string): MemorySet;
  store: TenantStore;
  /** Lets every engine drop its copy of a tenant's memory; null: of all. */
  dropMemory(tenant: string, hash: string | null): void;
  newId(): string;
}

export interface RunningBuild {
  build: Pick<MemoryBuild, "tokens" | "totalTokens" | "computedTokens">;
  /** Resolves to the bytes of the memory. */
  ready: Promise<number>;
}

export class MemoryService {
  readonly #parts: MemoryServiceParts;
  readonly #queue = new MakingQueue("memories");
  readonly #running = new Set<{ tenant: string; hash: string; deletion: AbortController; ended: Promise<void> }>();

  constructor(parts: MemoryServiceParts) {
    this.#parts = parts;
  }

  get store(): TenantStore {
    return this.#parts.store;
  }

  /**
   * Begins to make a memory, or what of it is missing. Throws a ServiceError for another hash or manifest, and for too much text. The
   * build rejects with `cancelled` when `signal` aborts, and with `memory_deleted` when the memory is removed.
   */
  async begin(tenant: string, hash: string, request: MemoryRequest, signal: AbortSignal): Promise<RunningBuild> {
    const { manifestHash, documents } = request;
    const { info, tokenizer } = this.#servingSet(manifestHash);
    const found = await memoryHash(tenant, manifestHash, documents);
    if (found !== hash) {
      throw new ServiceError("invalid_request", `The documents' hash for this tenant is ${found}, not ${hash}.`);
    }
    const { contextTokens, hiddenSize } = info.manifest.model;
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
        keysOf: (prompts, stop) => this.#keysOf(tenant, manifestHash, prompts, stop),
      });
      const stop = AbortSignal.any([signal, deletion.signal]);
      return { build, ready: this.#make(build, tenant, stop).finally(end) };
    } catch (error) {
      end();
      throw error;
    }
  }

  /** Removes a memory or, with null, all of a tenant's: here, then in every engine. */
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
      try {
        return await build.run(signal);
      } finally {
        end();
      }
    } catch (error) {
      if (!signal.aborted) throw error;
      throw signal.reason instanceof ServiceError ? signal.reason : cancelled(signal);
    }
  }

  #keysOf(
    tenant: string,
    manifestHash: string,
    prompts: readonly number[][],
    signal: AbortSignal,
  ): Promise<Int8Array[]> {
    const batch = this.#parts.newId();
    const sequences = prompts.map((promptIds, i) => tracedPrompt(`memory-${batch}-${i}`, tenant, promptIds));
    return this.#servingSet(manifestHash).engine.keysOf(sequences, signal);
  }

  /** Throws a ServiceError if the manifest is not served. */
  #servingSet(manifestHash: string): MemorySet & { info: EngineInfo } {
    const set = this.#parts.setOf(manifestHash);
    const { info } = set.engine;
    if (!info) throw unavailable("The engine is not ready.");
    if (info.manifestHash === manifestHash) return { ...set, info };
    throw new ServiceError(
      "manifest_mismatch",
      `The memory is wanted for manifest ${manifestHash}, this backend serves ${info.manifestHash}.`,
    );
  }
}
