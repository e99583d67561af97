/** Downloads, starts and ends sets as the pointer to the published artifacts says. */
import { currentOf, type Pointer, parsePointer, pointerName } from "../../../shared/artifacts/bucket.ts";
import { setLimits } from "../../../shared/artifacts/limits.ts";
import { planSets, type ServingSet, type ServingSets, type SetLimits } from "./serving-sets.ts";
import type { ReadObject, setDownloads } from "./set-folder.ts";

/** An incomplete set is tried again after this time, because its upload may continue. */
export const refusedMs = 30_000;
/** A set whose engine did not start is tried again after this time. */
export const failedMs = 600_000;

export interface FollowerParts {
  read: ReadObject;
  download: ReturnType<typeof setDownloads>;
  sets: ServingSets;
  start(folder: string): Promise<ServingSet>;
  limits: SetLimits;
  /** A clock in milliseconds. */
  now(): number;
  observer: {
    adopted(manifestHash: string): void;
    /** `manifestHash` is null if the pointer was refused. */
    refused(manifestHash: string | null, cause: unknown): void;
    retired(manifestHash: string): void;
  };
}

export class Follower {
  readonly #parts: FollowerParts;
  #refusal: { manifestHash: string; untilMs: number } | null = null;
  #timer: NodeJS.Timeout | null = null;
  #isStopped = false;

  constructor(parts: FollowerParts) {
    this.#parts = parts;
  }

  follow(pollMs: number): void {
    const next = async () => {
      await this.applyPointer();
      if (!this.#isStopped) this.#timer = setTimeout(() => void next(), pollMs).unref();
    };
    void next();
  }

  stop(): void {
    this.#isStopped = true;
    if (this.#timer) clearTimeout(this.#timer);
  }

  async applyPointer(): Promise<void> {
    const { sets, limits, now, observer } = this.#parts;
    const pointer = await this.#pointer();
    if (!pointer) return;
    const wanted = currentOf(pointer);
    sets.prefer(wanted);
    for (const { manifestHash, openSequences } of sets.held) {
      if (manifestHash === wanted || openSequences > 0) sets.markUsed(manifestHash);
    }
    const plan = planSets(sets.held, wanted, now(), limits);
    const folder = plan.start ? await this.#download(wanted) : null;
    // Old sets end only after the new set is downloaded.
    if (plan.start && !folder) return;
    for (const manifestHash of plan.retire) {
      if (!(await sets.retire(manifestHash))) return;
      observer.retired(manifestHash);
    }
    if (folder) await this.#start(wanted, folder);
  }

  async #pointer(): Promise<Pointer | null> {
    try {
      const bytes = await this.#parts.read(pointerName, setLimits.pointerBytes);
      return bytes && parsePointer(new TextDecoder().decode(bytes));
    } catch (cause) {
      this.#parts.observer.refused(null, cause);
      return null;
    }
  }

  /** Returns the folder, or null if the set was refused. */
  async #download(manifestHash: string): Promise<string | null> {
    const { download, sets, now } = this.#parts;
    if (this.#refusal?.manifestHash === manifestHash && now() < this.#refusal.untilMs) return null;
    try {
      const { folder, manifest } = await download(manifestHash, sets.manifests);
      const [wanted, served] = [manifest.model.weights, sets.info?.manifest.model.weights];
      if (served && served !== wanted) throw new Error(`it is for weights ${wanted}, served here are ${served}`);
      return folder;
    } catch (cause) {
      this.#refuse(manifestHash, cause, refusedMs);
      return null;
    }
  }

  async #start(manifestHash: string, folder: string): Promise<void> {
    const { sets, start, observer } = this.#parts;
    try {
      const set = await start(folder);
      if (this.#isStopped) {
        await set.close(0);
        return;
      }
      sets.adopt(set);
      this.#refusal = null;
      observer.adopted(manifestHash);
    } catch (cause) {
      this.#refuse(manifestHash, cause, failedMs);
    }
  }

  #refuse(manifestHash: string, cause: unknown, forMs: number): void {
    this.#refusal = { manifestHash, untilMs: this.#parts.now() + forMs };
    this.#parts.observer.refused(manifestHash, cause);
  }
}
