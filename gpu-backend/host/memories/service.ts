import { hasMemory } from "../../../shared/artifacts/manifest.ts";
import type { MemoryRequest } from "../../../shared/contracts/inference.ts";
import { memoryHash } from "../../../shared/contracts/memory-hash.ts";
import { centroidTenant } from "../../../shared/contracts/tenant-name.ts";
import { ServiceError, toServiceError } from "../../../shared/errors.ts";
import type { EngineInfo } from "../../engine/messages.ts";
import { requireManifest } from "../../engine/refusals.ts";
import { centroidMemory, type MemorySource } from "../../memory/centroid-memories.ts";
import type { MemoryName } from "../../memory/memory.ts";
import type { TenantStore } from "../../tenant-files/tenant-store.ts";
import { type EngineClient, tracedPrompt } from "../client.ts";
import { cancelled, MakingQueue } from "../own-adapters/making-queue.ts";
import type { ServingSet } from "../sets/serving-sets.ts";
import { MemoryBuild } from "./build.ts";
import { type EncodedDocument, encodeDocuments, encodedDocument } from "./document-windows.ts";

export interface MemoryServiceParts {
  setOf(hash: string): Pick<ServingSet, "tokenizer" | "excerpts"> & { engine: Pick<EngineClient, "keysOf" | "info"> };
  store: TenantStore;
  dropMemory(tenant: string, hash: string | null): void;
  newId(): string;
  /** Whether no sequence is open. */
  isIdle(): boolean;
  /** Called when a centroid's memory is made. */
  centroidMade?(centroidId: string, build: Pick<MemoryBuild, "tokens">): void;
}

export interface RunningBuild {
  build: Pick<MemoryBuild, "tokens" | "totalTokens" | "computedTokens">;
  ready: Promise<number>;
}

export class MemoryService {
  readonly store: TenantStore;
  readonly #parts: MemoryServiceParts;
  readonly #queue = new MakingQueue("memories");
  /** The last build of each set. A set's memories are made one after the other, and do not wait for the queue, which tenants may fill. */
  readonly #lastOfSets = new Map<string, Promise<unknown>>();
  /** Interrupts a build of `makeMissing`. */
  #unasked: AbortController | null = null;
  /** Hashes of memories that `makeMissing` began to make. */
  readonly #tried = new Set<string>();
  readonly #running = new Set<{ tenant: string; hash: string; deletion: AbortController; ended: Promise<void> }>();

  constructor(parts: MemoryServiceParts) {
    this.#parts = parts;
    this.store = parts.store;
  }

  /** `ready` rejects with `cancelled` on abort, with `memory_deleted` after `remove`. */
  async begin(tenant: string, hash: string, request: MemoryRequest, signal: AbortSignal): Promise<RunningBuild> {
    const { manifestHash, documents } = request;
    const { engine, tokenizer } = this.#parts.setOf(manifestHash);
    requireManifest(engine.info, manifestHash);
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
      const encoded = await encodeDocuments(await tokenizer(), documents);
      const build = this.#buildOf({ tenant, hash }, manifestHash, encoded);
      const stop = AbortSignal.any([signal, deletion.signal]);
      return { build, ready: this.#make(build, tenant, stop).finally(end) };
    } catch (error) {
      end();
      throw error;
    }
  }

  /** Makes a centroid's memory if it is not on disk. Resolves to its bytes if the disk refused them. */
  async bringOfCentroid(source: MemorySource, centroidId: string): Promise<Uint8Array | null> {
    const { tenant, hash } = centroidMemory(source, centroidId);
    // A sequence waits for this memory. An interrupted build continues where it was.
    this.#unasked?.abort();
    await this.#inTurn(source, centroidId, new AbortController().signal);
    return this.store.unwritten(tenant, hash);
  }

  /**
   * While no sequence is open, makes one of the set's missing memories that it has not tried before. Resolves to false if there is none.
   */
  async makeMissing({ manifest, ...source }: EngineInfo): Promise<boolean> {
    if (!this.#parts.isIdle()) return true;
    for (const { id, ...record } of manifest.centroids) {
      const { tenant, hash } = centroidMemory(source, id);
      if (!hasMemory(record) || this.#tried.has(hash) || (await this.store.has(tenant, hash))) continue;
      // Of memories that do not all have room on the disk, none is made again and again.
      this.#tried.add(hash);
      this.#unasked = new AbortController();
      const { signal } = this.#unasked;
      await this.#inTurn(source, id, signal).catch((error) => {
        const isLasting = !signal.aborted && toServiceError(error).kind !== "backend_unavailable";
        if (isLasting) throw error;
        this.#tried.delete(hash);
      });
      return true;
    }
    return false;
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

  #inTurn(source: MemorySource, centroidId: string, signal: AbortSignal): Promise<void> {
    const { manifestHash } = source;
    const last = this.#lastOfSets.get(manifestHash) ?? Promise.resolve();
    const making = last.then(() => this.#makeOfCentroid(source, centroidId, signal));
    this.#lastOfSets.set(
      manifestHash,
      making.catch(() => undefined),
    );
    return making;
  }

  async #makeOfCentroid(source: MemorySource, centroidId: string, signal: AbortSignal): Promise<void> {
    const { manifestHash } = source;
    const { engine, excerpts } = this.#parts.setOf(manifestHash);
    const { centroids } = requireManifest(engine.info, manifestHash).manifest;
    const k = centroids.findIndex(({ id, memory }) => id === centroidId && memory);
    if (k < 0) throw new ServiceError("memory_not_found", `The centroid ${centroidId} has no memory.`);
    const name = centroidMemory(source, centroidId);
    // An engine asks for a memory that it could not open, too.
    this.store.doubt(name.tenant, name.hash);
    if (await this.store.has(name.tenant, name.hash)) return;
    // The engine sets the tokens' byte ranges, so that this process needs no tokenizer, which takes 60 MB.
    const documents = (await excerpts())[k].map((excerpt) => encodedDocument(excerpt, () => 0));
    const build = this.#buildOf(name, manifestHash, documents);
    await build.run(signal);
    this.#parts.centroidMade?.(centroidId, build);
  }

  #buildOf({ tenant, hash }: MemoryName, manifestHash: string, documents: EncodedDocument[]): MemoryBuild {
    const { contextTokens, hiddenSize } = this.#parts.setOf(manifestHash).engine.info!.manifest.model;
    return new MemoryBuild({
      ...{ tenant, hash, manifestHash, documents, contextTokens, hiddenSize, store: this.store },
      // Windows of a centroid's memory are computed one by one, so that other sequences wait for a single window.
      ...(tenant === centroidTenant && { groupWindows: 1 }),
      keysOf: (prompts, stop) => {
        if (stop === this.#unasked?.signal && !this.#parts.isIdle()) this.#unasked.abort();
        stop.throwIfAborted();
        const batch = this.#parts.newId();
        const sequences = prompts.map((promptIds, i) => tracedPrompt(`memory-${batch}-${i}`, tenant, promptIds));
        // Another set may have replaced the manifest's set in the meantime.
        const { engine } = this.#parts.setOf(manifestHash);
        requireManifest(engine.info, manifestHash);
        return engine.keysOf(sequences, stop);
      },
    });
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
