/** A file in the making, which a later write can continue. If the disk refuses a record, a small file continues in RAM. */
import type { FileHandle } from "node:fs/promises";
import { setImmediate } from "node:timers/promises";
import { ServiceError } from "../../shared/errors.ts";
import type { WriteSystem } from "../files.ts";
import { endAt, recordAt, type SealedRecords, seal, sealedBytes } from "./sealed-records.ts";

/** Maximum bytes of all files that are in RAM because the disk refused them. */
export const unwrittenBytes = 64 * 2 ** 20;

export interface FilePlan {
  /** Readable without the content, and not part of the content. */
  label: Uint8Array;
  /** The first record of the content. */
  head: Uint8Array;
  /** Size of each record after the head. */
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
  /** Resolves to false if the disk refuses the write. */
  onDisk(write: () => Promise<void>): Promise<boolean>;
  /** `unwritten` is null if the file is on disk, else the content. */
  finished(unwritten: Uint8Array | null): void;
  closed(): Promise<void>;
}

export class PartialFile {
  readonly #parts: PartialFileParts;
  #key: Uint8Array | null = null;
  /** null once the disk has refused a write. */
  #file: FileHandle | null = null;
  /** null if the whole file would exceed `unwrittenBytes`. */
  #content: Uint8Array[] | null;
  /** Number of records so far, with label and head. */
  #records = 0;

  constructor(parts: PartialFileParts) {
    this.#parts = parts;
    this.#content = plannedBytes(parts.plan) <= unwrittenBytes ? [] : null;
  }

  /** Number of records so far, without label and head. */
  get length(): number {
    return this.#records - 2;
  }

  /** Continues the records on disk, `found`, if their label and head match the plan. */
  async open(found: SealedRecords | null, requireKey: () => Promise<Uint8Array>): Promise<void> {
    const { plan, system, partialPath } = this.#parts;
    const isContinued = found?.at(0)?.equals(plan.label) && found.at(1)?.equals(plan.head);
    const kept = [plan.label.length, plan.head.length];
    this.#content?.push(plan.head);
    this.#records = 2;
    for (let content: Uint8Array | null; found && isContinued; kept.push(content.length)) {
      content = found.at(this.#records);
      if (content?.length !== plan.recordBytes[this.length]) break;
      this.#content?.push(content);
      this.#records++;
      // Lets other work run after each decrypted record.
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

  /** Throws a ServiceError if the disk refuses the records and the file exceeds `unwrittenBytes`. */
  async append(contents: readonly Uint8Array[]): Promise<void> {
    this.#content?.push(...contents);
    const place = this.#records;
    this.#records += contents.length;
    if (this.#file) await this.#write(() => this.#file!.appendFile(this.#sealed(place, contents)));
  }

  /** Gives the file its name. Resolves to the size in bytes. */
  async finish(): Promise<number> {
    const { hash, plan, path, partialPath, system, finished } = this.#parts;
    if (this.#file) {
      await this.#write(async () => {
        await this.#file!.appendFile(seal(this.#key!, endAt(hash, this.#records), new Uint8Array(0)));
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

  /** An unfinished file stays on disk and can be continued. */
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
    return Buffer.concat(contents.map((content, i) => seal(this.#key!, recordAt(hash, place + i), content)));
  }

  async #closeFile(): Promise<void> {
    const file = this.#file;
    this.#file = null;
    await file?.close();
  }
}
