/**
 * A tenant's file that is written record by record beside its final name, which it gets when it is finished. What a killed process
 * left of it is continued after its last whole record. Where the disk refuses a record, the file continues in memory if it is small.
 */
import type { FileHandle } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { ServiceError } from "../../shared/errors.ts";
import type { WriteSystem } from "../files.ts";
import { type SealedRecords, sealEnd, sealedBytes, sealRecord } from "./sealed-records.ts";

/** Maximum bytes of files kept in memory because the disk refused them. */
export const unwrittenBytes = 64 * 2 ** 20;

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
  /** The file is whole: on disk, or with this content in memory. */
  finished(unwritten: Uint8Array | null): void;
  closed(): Promise<void>;
}

export class PartialFile {
  readonly #parts: PartialFileParts;
  #key: Uint8Array | null = null;
  /** null once the disk has refused a write. */
  #file: FileHandle | null = null;
  /** The content so far; null if it is too large to be kept in memory. */
  #content: Uint8Array[] | null;
  /** Records so far, the label included. */
  #records = 0;

  constructor(parts: PartialFileParts) {
    this.#parts = parts;
    this.#content = plannedBytes(parts.plan) <= unwrittenBytes ? [] : null;
  }

  /** Number of records after the head that are there. */
  get length(): number {
    return this.#records - 2;
  }

  /** Continues `found`, what is on disk, if it has this label and head. `requireKey` makes room, and a key if there is none. */
  async open(found: SealedRecords | null, requireKey: () => Promise<Uint8Array>): Promise<void> {
    const { plan, system, partialPath } = this.#parts;
    const isContinued = found !== null && isEqual(found.at(0), plan.label) && isEqual(found.at(1), plan.head);
    const kept = [plan.label.length, plan.head.length];
    this.#content?.push(plan.head);
    this.#records = 2;
    for (let content: Uint8Array | null; isContinued; kept.push(content.length)) {
      content = found.at(this.#records);
      if (content?.length !== plan.recordBytes[this.length]) break;
      this.#content?.push(content);
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

  /** Throws a ServiceError where the disk refuses them and the file is too large to be kept in memory. */
  async append(contents: readonly Uint8Array[]): Promise<void> {
    this.#content?.push(...contents);
    const place = this.#records;
    this.#records += contents.length;
    if (this.#file) await this.#write(() => this.#file!.appendFile(this.#sealed(place, contents)));
  }

  /** Resolves to its size in bytes. */
  async finish(): Promise<number> {
    const { hash, plan, path, partialPath, system, finished } = this.#parts;
    if (this.#file) {
      await this.#write(async () => {
        await this.#file!.appendFile(sealEnd(this.#key!, hash, this.#records));
        await this.#file!.sync();
        await this.#closeFile();
        await system.rename(partialPath, path);
        finished(null);
        this.#content = null;
      });
    }
    if (this.#content) {
      await system.rm(partialPath, { force: true }).catch(() => undefined);
      finished(Buffer.concat(this.#content));
    }
    return plannedBytes(plan);
  }

  /** Keeps what is on disk, to be continued; does nothing to a finished file. */
  async close(): Promise<void> {
    await this.#closeFile();
    await this.#parts.closed();
  }

  async #write(write: () => Promise<void>): Promise<void> {
    if (await this.#parts.onDisk(write)) return;
    await this.#closeFile().catch(() => undefined);
    if (this.#content) return;
    throw new ServiceError(
      "backend_unavailable",
      `The disk refuses the file, which has ${plannedBytes(this.#parts.plan)} bytes; up to ${unwrittenBytes} could be kept in memory.`,
      { retryAfterSeconds: 60 },
    );
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
