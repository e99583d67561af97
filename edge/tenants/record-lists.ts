/** A tenant's lists of records, in order of creation: files, jobs, and the events of each job. */

const schema = `
  CREATE TABLE IF NOT EXISTS records (
    number INTEGER PRIMARY KEY AUTOINCREMENT, list TEXT NOT NULL, id TEXT NOT NULL UNIQUE, record TEXT NOT NULL
  );
  CREATE INDEX IF NOT EXISTS recordsOfList ON records (list, number);
`;

export interface PageRequest {
  limit: number;
  /** Id of the record before the page; null: the page begins with the list's first record. */
  after: string | null;
  order: "asc" | "desc";
}

export interface Page<T> {
  records: T[];
  hasMore: boolean;
}

/** The list of a job's events is named by the job's id. */
export const filesList = "files";
export const jobsList = "jobs";

type Row = { record: string };

export class RecordLists {
  readonly #sql: SqlStorage;

  constructor(sql: SqlStorage) {
    this.#sql = sql;
    sql.exec(schema);
  }

  add<T extends { id: string }>(list: string, record: T): void {
    this.#sql.exec("INSERT INTO records (list, id, record) VALUES (?, ?, ?)", list, record.id, JSON.stringify(record));
  }

  replace<T extends { id: string }>(record: T): void {
    this.#sql.exec("UPDATE records SET record = ? WHERE id = ?", JSON.stringify(record), record.id);
  }

  find<T>(list: string, id: string): T | null {
    const [row] = this.#sql.exec<Row>("SELECT record FROM records WHERE list = ? AND id = ?", list, id);
    return row ? (JSON.parse(row.record) as T) : null;
  }

  all<T>(list: string): T[] {
    const rows = this.#sql.exec<Row>("SELECT record FROM records WHERE list = ? ORDER BY number", list);
    return [...rows].map(({ record }) => JSON.parse(record) as T);
  }

  /** null if the list has no record with the id `after`. */
  page<T>(list: string, { limit, after, order }: PageRequest): Page<T> | null {
    const select = "SELECT number FROM records WHERE list = ? AND id = ?";
    const [start] = after === null ? [] : this.#sql.exec<{ number: number }>(select, list, after);
    if (after !== null && !start) return null;
    const [beyond, from] =
      order === "asc" ? [">", start?.number ?? -1] : ["<", start?.number ?? Number.MAX_SAFE_INTEGER];
    const rows = this.#sql.exec<Row>(
      `SELECT record FROM records WHERE list = ? AND number ${beyond} ? ORDER BY number ${order} LIMIT ?`,
      ...[list, from, limit + 1],
    );
    const records = [...rows].map(({ record }) => JSON.parse(record) as T);
    return { records: records.slice(0, limit), hasMore: records.length > limit };
  }

  remove(list: string, id: string): boolean {
    return this.#sql.exec("DELETE FROM records WHERE list = ? AND id = ?", list, id).rowsWritten > 0;
  }

  clear(list: string): void {
    this.#sql.exec("DELETE FROM records WHERE list = ?", list);
  }

  erase(): void {
    this.#sql.exec("DELETE FROM records");
  }
}
