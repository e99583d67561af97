/** A tenant's own adapters in SQLite, one record each. */
import { RankedAdapters } from "./nearest-adapters.ts";
import type { FailedRefit, FittedParts, OwnAdapter, OwnMemory } from "./own-adapters.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS ownAdapters (name TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
`;

/** Precedes a memory's hash in names of copies and of sealed texts. Names without the prefix are hashes of fitted parts. */
export const memoryPrefix = "memory:";

interface Refit extends Omit<FailedRefit, "error"> {
  error: string | null;
  /** Parts fitted for the new artifacts, unused until the memory is built for these artifacts, too. */
  made: FittedParts | null;
}

export interface AdapterRecord {
  name: string;
  /** Unix time in seconds. */
  created: number;
  /** false: the adapter's examples and documents are deleted once it is made. */
  keep?: boolean;
  fitted: FittedParts | null;
  memory: OwnMemory | null;
  refit: Refit | null;
}

type Row = { record: string };

export class AdapterRecords {
  readonly #sql: SqlStorage;
  #ranked: RankedAdapters | null = null;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    sql.exec(schema);
  }

  list(): AdapterRecord[] {
    const rows = this.#sql.exec<Row>("SELECT record FROM ownAdapters ORDER BY name");
    return [...rows].map(({ record }) => JSON.parse(record) as AdapterRecord);
  }

  withJobs(): AdapterRecord[] {
    const isQueued = "record ->> '$.memory.job.status' = 'queued'";
    const rows = this.#sql.exec<Row>(`SELECT record FROM ownAdapters WHERE ${isQueued} ORDER BY name`);
    return [...rows].map(({ record }) => JSON.parse(record) as AdapterRecord);
  }

  find(name: string): AdapterRecord | null {
    const [row] = this.#sql.exec<Row>("SELECT record FROM ownAdapters WHERE name = ?", name);
    return row ? (JSON.parse(row.record) as AdapterRecord) : null;
  }

  get count(): number {
    return this.#sql.exec<{ count: number }>("SELECT count(*) AS count FROM ownAdapters").one().count;
  }

  put(record: AdapterRecord): void {
    this.#ranked = null;
    this.#sql.exec("INSERT OR REPLACE INTO ownAdapters VALUES (?, ?)", record.name, JSON.stringify(record));
  }

  change(name: string, fields: Partial<AdapterRecord>): void {
    const record = this.find(name);
    if (record) this.put({ ...record, ...fields });
  }

  remove(name: string): void {
    this.#ranked = null;
    this.#sql.exec("DELETE FROM ownAdapters WHERE name = ?", name);
  }

  erase(): void {
    this.#ranked = null;
    this.#sql.exec("DELETE FROM ownAdapters");
  }

  /** Centroids stay in RAM, so that a search reads only the nearest adapters' records from SQLite. */
  get ranked(): RankedAdapters {
    this.#ranked ??= new RankedAdapters(this.list().map(adapterOf));
    return this.#ranked;
  }

  /** Whether no adapter has this copy (`copiesOf`). Parses only records whose text contains the hash, because a record has kilobytes. */
  isUnused(copy: string): boolean {
    const hash = copy.replace(memoryPrefix, "");
    const rows = this.#sql.exec<{ record: string }>("SELECT record FROM ownAdapters WHERE instr(record, ?) > 0", hash);
    return ![...rows].some(({ record }) => copiesOf(JSON.parse(record) as AdapterRecord).includes(copy));
  }
}

/** Hashes of fitted parts and, after `memoryPrefix`, of memories. A failed job has no copies, because its texts are deleted. */
export function copiesOf({ fitted, refit, memory }: AdapterRecord): string[] {
  const job = memory?.job?.status === "failed" ? null : memory?.job;
  return [
    ...[fitted, refit?.made].flatMap((parts) => parts?.hash ?? []),
    ...[memory?.ready, job].flatMap((set) => (set ? memoryPrefix + set.hash : [])),
  ];
}

export function adapterOf({ name, created, keep, fitted, memory, refit }: AdapterRecord): OwnAdapter {
  const set = memory?.ready ?? memory?.job ?? null;
  const { manifestHash, centroid } = (fitted ?? set)!;
  const parts = fitted ?? { hash: null, manifestHash, centroid, gain: null, examples: 0, tokens: 0 };
  const failed = refit?.error ? { manifestHash: refit.manifestHash, error: refit.error, isFinal: refit.isFinal } : null;
  return { ...{ name, created, keep }, ...parts, ...(set && { centroid: set.centroid }), memory, refit: failed };
}
