/** Opens centroids' memories. The parent process makes a memory that is not on disk; meanwhile only the sequences that need it wait. */
import type { ErrorFrame } from "../../shared/contracts/inference.ts";
import { ServiceError } from "../../shared/errors.ts";
import { centroidMemory, type MemorySource } from "../memory/centroid-memories.ts";
import type { MemoryCache, OpenMemory } from "../memory/memory-cache.ts";

export interface CentroidMemoryParts {
  cache: Pick<MemoryCache, "acquire" | "isOpen">;
  source: MemorySource;
  /** Asks the parent for a memory. `brought` takes the answer. */
  want(centroidId: string): void;
}

export class CentroidMemories {
  readonly #parts: CentroidMemoryParts;
  readonly #wanted = new Map<string, PromiseWithResolvers<void>>();

  constructor(parts: CentroidMemoryParts) {
    this.#parts = parts;
  }

  /** Throws a ServiceError if the memory cannot be made or opened. */
  async acquire(centroidId: string): Promise<OpenMemory> {
    const { cache, source } = this.#parts;
    const { tenant, hash } = centroidMemory(source, centroidId);
    if (!cache.isOpen(tenant, hash)) await this.#bring(centroidId);
    return cache.acquire(tenant, hash);
  }

  brought(centroidId: string, error: ErrorFrame | null): void {
    const wanted = this.#wanted.get(centroidId);
    this.#wanted.delete(centroidId);
    if (!error) wanted?.resolve();
    else {
      const { kind, message, retryAfterSeconds } = error;
      wanted?.reject(new ServiceError(kind, message, { retryAfterSeconds: retryAfterSeconds ?? undefined }));
    }
  }

  #bring(centroidId: string): Promise<void> {
    const known = this.#wanted.get(centroidId);
    if (known) return known.promise;
    const wanted = Promise.withResolvers<void>();
    this.#wanted.set(centroidId, wanted);
    this.#parts.want(centroidId);
    return wanted.promise;
  }
}
