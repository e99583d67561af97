import type { ServiceError } from "../../../shared/errors.ts";
import { readMemories, readTokenizer } from "../../engine/artifacts.ts";
import type { EngineInfo, EngineSettings, EngineStats } from "../../engine/messages.ts";
import { unavailable } from "../../engine/refusals.ts";
import type { Excerpt } from "../../memory/centroid-memories.ts";
import { EngineClient, type EngineClientParts } from "../client.ts";
import type { DocumentTokenizer } from "../memories/document-windows.ts";
import { FitClient } from "../own-adapters/fit-client.ts";

export interface ServingSet {
  info: Pick<EngineInfo, "manifestHash">;
  engine: Omit<EngineClient, "ready" | "close">;
  fitter: Pick<FitClient, "fit">;
  tokenizer(): Promise<DocumentTokenizer>;
  /** Excerpts of each centroid's memory. */
  excerpts(): Promise<Excerpt[][]>;
  /** Waits up to `limitMs` for open sequences. */
  close(limitMs: number): Promise<void>;
}

export class ServingSets {
  /** Sets by manifest hash. For `usedMs`, see HeldSet. */
  readonly #held = new Map<string, { set: ServingSet; usedMs: number }>();
  readonly #now: () => number;
  /** Manifest hash of the preferred set. */
  #first: string | null = null;
  #isClosing = false;

  constructor(now: () => number) {
    this.#now = now;
  }

  get info(): EngineInfo | null {
    return this.#set(this.#first)?.engine.info ?? null;
  }

  /** Returns another running set's info while the preferred set's engine restarts. Throws `backend_unavailable` if no set runs. */
  requireServing(): EngineInfo {
    const first = this.#set(this.#first);
    if (!first || this.#isClosing) throw this.#unavailable();
    return (first.engine.isServing ? first : (this.#set(this.serving.at(-1) ?? null) ?? first)).engine.requireServing();
  }

  get manifests(): string[] {
    return [...this.#held.keys()];
  }

  get serving(): string[] {
    return this.held.flatMap(({ manifestHash, isServing }) => (isServing ? [manifestHash] : []));
  }

  get held(): HeldSet[] {
    return [...this.#held].map(([manifestHash, { set, usedMs }]) => ({
      ...{ manifestHash, usedMs },
      openSequences: set.engine.openSequences,
      isServing: set.engine.isServing,
    }));
  }

  get openSequences(): number {
    return this.held.reduce((sum, { openSequences }) => sum + openSequences, 0);
  }

  get stats(): EngineStats[] {
    return [...this.#held.values()].flatMap(({ set }) => set.engine.stats ?? []);
  }

  /** Returns the preferred set for an unknown manifest. Its engine refuses the batch. */
  of(manifestHash: string): ServingSet {
    const set = this.#set(manifestHash) ?? this.#set(this.#first);
    if (!set) throw this.#unavailable();
    this.markUsed(manifestHash);
    return set;
  }

  cancel(ids: readonly string[]): string[] {
    return [...this.#held.values()].flatMap(({ set }) => set.engine.cancel(ids));
  }

  dropMemory(tenant: string, hash: string | null): void {
    for (const { set } of this.#held.values()) set.engine.dropMemory(tenant, hash);
  }

  adopt(set: ServingSet): void {
    const { manifestHash } = set.info;
    this.#held.set(manifestHash, { set, usedMs: this.#now() });
    this.#first = manifestHash;
  }

  prefer(manifestHash: string): void {
    if (this.#held.has(manifestHash)) this.#first = manifestHash;
  }

  markUsed(manifestHash: string): void {
    const held = this.#held.get(manifestHash);
    if (held) held.usedMs = this.#now();
  }

  /** Ends the set. Returns false if the set has an open sequence. */
  async retire(manifestHash: string): Promise<boolean> {
    const set = this.#set(manifestHash);
    if (!set || set.engine.openSequences > 0) return false;
    this.#held.delete(manifestHash);
    if (this.#first === manifestHash) this.#first = this.manifests.at(-1) ?? null;
    await set.close(0);
    return true;
  }

  async close(limitMs: number): Promise<void> {
    this.#isClosing = true;
    await Promise.all([...this.#held.values()].map(({ set }) => set.close(limitMs)));
  }

  #unavailable(): ServiceError {
    return unavailable(this.#isClosing ? "The backend is shutting down." : "The engine is starting.");
  }

  #set(manifestHash: string | null): ServingSet | null {
    return (manifestHash && this.#held.get(manifestHash)?.set) || null;
  }
}

export interface HeldSet {
  manifestHash: string;
  openSequences: number;
  /** When the set last got a batch or was the published set. */
  usedMs: number;
  isServing: boolean;
}

export interface SetLimits {
  /** Maximum sets. Each takes the RAM of a model. */
  sets: number;
  /** Time from the last use of a replaced set to its end. */
  graceMs: number;
}

/** Returns the sets to end, and whether to start the wanted set afterwards. */
export function planSets(
  held: readonly HeldSet[],
  wanted: string,
  nowMs: number,
  limits: SetLimits,
): { start: boolean; retire: string[] } {
  const idle = held.filter(({ manifestHash, openSequences }) => manifestHash !== wanted && openSequences === 0);
  const current = held.find(({ manifestHash }) => manifestHash === wanted);
  if (current) {
    const done = idle.filter(({ usedMs }) => current.isServing && nowMs - usedMs >= limits.graceMs);
    return { start: false, retire: done.map(({ manifestHash }) => manifestHash) };
  }
  if (held.length < limits.sets) return { start: true, retire: [] };
  // The only set continues, because it serves until the new set does.
  if (idle.length === 0 || held.length === 1) return { start: false, retire: [] };
  const [oldest] = idle.toSorted((a, b) => Number(a.isServing) - Number(b.isServing) || a.usedMs - b.usedMs);
  return { start: true, retire: [oldest.manifestHash] };
}

/** Resolves when the engine serves. Rejects if the folder is invalid or the engine does not start in time. */
export async function startSet(settings: EngineSettings, parts: EngineClientParts): Promise<ServingSet> {
  const { modelDirectory, artifactsDirectory } = settings;
  const engine = new EngineClient(settings, parts);
  try {
    const info = await engine.ready;
    const fitter = new FitClient({ modelDirectory, artifactsDirectory }, { environment: parts.environment });
    let tokenizer: Promise<DocumentTokenizer> | null = null;
    return {
      ...{ info, engine, fitter },
      // Read late, because only documents need the tokenizer in this process.
      tokenizer() {
        tokenizer ??= readTokenizer(artifactsDirectory, info.manifest).catch((error) => {
          tokenizer = null;
          throw error;
        });
        return tokenizer;
      },
      excerpts: () => readMemories(artifactsDirectory, info.manifest),
      async close(limitMs) {
        await engine.close(limitMs);
        await fitter.close();
      },
    };
  } catch (error) {
    await engine.close(0);
    throw error;
  }
}
