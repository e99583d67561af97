/** Makes the file of a memory, window by window. Each window is a record, so an unfinished file can be continued. */
import { ServiceError } from "../../../shared/errors.ts";
import { packMemoryHead } from "../../memory/memory.ts";
import { type FilePlan, plannedBytes } from "../../tenant-files/partial-file.ts";
import type { TenantStore } from "../../tenant-files/tenant-store.ts";
import { type EncodedDocument, type Window, windowsOf } from "./document-windows.ts";
import { findKnownKeys, type KnownKeys, memoryLabel } from "./known-keys.ts";

/** Windows computed together: enough to keep the engine busy, and few to lose if the build ends early. */
const defaultGroupWindows = 4;

export interface BuildParts {
  tenant: string;
  hash: string;
  manifestHash: string;
  documents: readonly EncodedDocument[];
  contextTokens: number;
  hiddenSize: number; // D
  store: TenantStore;
  groupWindows?: number;
  /** Returns keys [n, D] for each prompt. */
  keysOf(prompts: readonly number[][], signal: AbortSignal): Promise<Int8Array[]>;
}

export class MemoryBuild {
  readonly totalTokens: number;
  tokens: number;
  /** Tokens whose keys this build computed. Keys found in another memory do not count. */
  computedTokens = 0;
  readonly #parts: BuildParts;
  readonly #windows: Window[];
  readonly #label: Buffer;
  readonly #plan: FilePlan;

  /** Throws a ServiceError if the memory alone exceeds the tenant's bound. */
  constructor(parts: BuildParts) {
    const { manifestHash, documents, contextTokens, hiddenSize, store } = parts;
    const lengths = documents.map(({ ids }) => ids.length);
    this.#parts = parts;
    this.totalTokens = lengths.reduce((sum, length) => sum + length, 0);
    // Documents of one token need no keys, so their tokens are complete from the start.
    this.tokens = lengths.filter((length) => length === 1).length;
    this.#windows = windowsOf(lengths, contextTokens);
    this.#label = memoryLabel(manifestHash, documents);
    this.#plan = {
      label: this.#label,
      head: packMemoryHead(documents, hiddenSize, manifestHash),
      recordBytes: this.#windows.map(({ from, end }) => (end - from) * hiddenSize),
    };
    const bytes = plannedBytes(this.#plan);
    const most = store.files.maximumBytes(parts.tenant);
    if (bytes > most) {
      const message = `The memory would have ${bytes} bytes; a tenant may keep ${most} bytes of memories.`;
      throw new ServiceError("invalid_request", message);
    }
  }

  async find(): Promise<number | null> {
    const { tenant, hash, store } = this.#parts;
    const bytes = await store.bytesOf(tenant, hash);
    if (bytes !== null) this.tokens = this.totalTokens;
    return bytes;
  }

  /** Resolves to the memory's bytes. Rejects with a ServiceError; keys computed by then stay on disk. */
  async run(signal: AbortSignal): Promise<number> {
    const { tenant, hash, store, contextTokens, groupWindows = defaultGroupWindows } = this.#parts;
    // Another build may have made the memory in the meantime.
    const found = await this.find();
    if (found !== null) return found;
    const file = await store.begin(tenant, hash, this.#plan);
    try {
      for (const window of this.#windows.slice(0, file.length)) this.tokens += tokensOf(window);
      const known = await findKnownKeys(store, { tenant, hash, label: this.#label, contextTokens });
      for (let at = file.length; at < this.#windows.length; at += groupWindows) {
        const group = this.#windows.slice(at, at + groupWindows);
        await file.append(await this.#keysOf(group, known, signal));
        for (const window of group) this.tokens += tokensOf(window);
      }
      return await file.finish();
    } finally {
      await file.close();
    }
  }

  async #keysOf(group: readonly Window[], known: KnownKeys, signal: AbortSignal): Promise<Uint8Array[]> {
    const { documents, hiddenSize: D, keysOf } = this.#parts;
    const records: (Uint8Array | null)[] = [];
    for (const { document, part, from, end } of group) {
      const record = await known(documents[document], part);
      records.push(record?.length === (end - from) * D ? record : null);
    }
    const missing = group.filter((_, i) => !records[i]);
    const prompts = missing.map(({ document, start, end }) => [...documents[document].ids.subarray(start, end)]);
    if (signal.aborted) throw signal.reason;
    const computed = missing.length > 0 ? await keysOf(prompts, signal) : [];
    for (const [i, window] of missing.entries()) {
      const { start, from, end } = window;
      if (computed[i].length !== (end - start) * D) {
        throw new Error(`${computed[i].length} elements of keys of ${end - start} tokens, expected ${D} a token`);
      }
      const kept = computed[i].subarray((from - start) * D);
      records[group.indexOf(window)] = new Uint8Array(kept.buffer, kept.byteOffset, kept.byteLength);
      this.computedTokens += tokensOf(window);
    }
    return records as Uint8Array[];
  }
}

/** A window completes a token for each key. A first window also completes the document's last token, which has no key. */
function tokensOf({ part, from, end }: Window): number {
  return end - from + (part === 0 ? 1 : 0);
}
