/**
 * A tenant's file that is written record by record beside its final name, which it gets when it is finished. What a killed process
 * left of it is continued after its last whole record.
 */
import type { FileHandle } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { ServiceError } from "../../shared/errors.ts";
import type { WriteSystem } from "../files.ts";
import { type SealedRecords, sealEnd, sealedBytes, sealRecord } from "./sealed-records.ts";

/** Everything that is known of a file before it is written. */
export interface FilePlan {
  label: Uint8Array;
  /** The first record of the content. */
  head: Uint8Array;
  /** Bytes of each record after it. */
  recordBytes: readonly number[];
}

export function plannedBytes({ label, head, recordBytes }: FilePlan): number {
  return sealedBytes([label.length, head.length, ...recordBytes]);
}

export interface PartialFileParts {
  hash: string;
  plan: FilePlan;
  path: string;
  partialPath: string;
  system: WriteSystem;
  /** Runs a write. Resolves to false where the disk refuses it. */
  onDisk(write: () => Promise<void>): Promise<boolean>;
  /** The file has its final name. */
  finished(): void;
  closed(): Promise<void>;
}

export class PartialFile {
  readonly #parts: PartialFileParts;
  #key: Uint8Array | null = null;
  #file: FileHandle | null = null;
  /** Records so far, the label included. */
  #records = 0;

  constructor(parts: PartialFileParts) {
    this.#parts = parts;
  }

  /** Number of records after the head that are there. */
  get length(): number {
    return this.#records - 2;
  }

  /**
   * Continues `found`, what is on disk, if it has this label and head. `requireKey` makes room, and a key if there is none. Like what
   * follows, throws a ServiceError where the disk refuses a write.
   */
  async open(found: SealedRecords | null, requireKey: () => Promise<Uint8Array>): Promise<void> {
    const { plan, system, partialPath } = this.#parts;
    const isContinued = found !== null && isEqual(found.at(0), plan.label) && isEqual(found.at(1), plan.head);
    const kept = [plan.label.length, plan.head.length];
    this.#records = 2;
    for (let content: Uint8Array | null; isContinued; kept.push(content.length)) {
      content = found.at(this.#records);
      if (content?.length !== plan.recordBytes[this.length]) break;
      this.#records++;
      // Lets other work of the process run.
      await setImmediate();
    }
    await this.#write(async () => {
      const key = await requireKey();
      this.#key = key;
      this.#file = await system.open(partialPath, "a", 0o600);
      await this.#file.truncate(isContinued ? sealedBytes(kept) - sealedBytes([]) : 0);
      if (!isContinued) await this.#file.appendFile(this.#sealed(0, [plan.label, plan.head]));
    });
  }

  async append(contents: readonly Uint8Array[]): Promise<void> {
    await this.#write(() => this.#file!.appendFile(this.#sealed(this.#records, contents)));
    this.#records += contents.length;
  }

  /** Resolves to its size in bytes. */
  async finish(): Promise<number> {
    const { hash, plan, path, partialPath, system, finished } = this.#parts;
    await this.#write(async () => {
      await this.#file!.appendFile(sealEnd(this.#key!, hash, this.#records));
      await this.#file!.sync();
      await this.#closeFile();
      await system.rename(partialPath, path);
      finished();
    });
    return plannedBytes(plan);
  }

  /** Keeps what is on disk, to be continued; does nothing to a finished file. */
  async close(): Promise<void> {
    await this.#closeFile();
    await this.#parts.closed();
  }

  async #write(write: () => Promise<void>): Promise<void> {
    if (await this.#parts.onDisk(write)) return;
    const message = `The disk of this backend refuses a file of ${plannedBytes(this.#parts.plan)} bytes.`;
    throw new ServiceError("backend_unavailable", message, { retryAfterSeconds: 60 });
  }

  #sealed(place: number, contents: readonly Uint8Array[]): Uint8Array {
    const { hash } = this.#parts;
    return Buffer.concat(contents.map((content, i) => sealRecord(this.#key!, hash, place + i, content)));
  }

  async #closeFile(): Promise<void> {
    const file = this.#file;
    this.#file = null;
    await file?.close();
  }
}

function isEqual(found: Uint8Array | null, wanted: Uint8Array): boolean {
  return found !== null && Buffer.compare(found, wanted) === 0;
}
