/** Makes centroids' memories while the backend is idle, so that few requests wait for one. A sequence that comes first has its own made. */
import type { ServingSets } from "../sets/serving-sets.ts";
import type { MemoryService } from "./service.ts";

/** A memory of 8,192 tokens takes two cores some eight seconds. */
export const idleCheckMs = 1000;

export interface IdleMakingParts {
  sets: Pick<ServingSets, "info">;
  memories: Pick<MemoryService, "makeMissing">;
  failed(error: unknown): void;
}

/** Returns a function that makes at most one memory. A memory that cannot be made is left to the sequences that need it. */
export function idleMaking({ sets, memories, failed }: IdleMakingParts): () => Promise<void> {
  let settled: string | null = null;
  let isMaking = false;
  return async () => {
    const { info } = sets;
    if (!info || info.manifestHash === settled || isMaking) return;
    isMaking = true;
    try {
      if (!(await memories.makeMissing(info))) settled = info.manifestHash;
    } catch (error) {
      failed(error);
    } finally {
      isMaking = false;
    }
  };
}
