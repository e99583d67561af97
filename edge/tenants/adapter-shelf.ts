/**
 * The Durable Object that keeps one tenant's own adapters: their names, what they gain, and their bytes, which it hands
 * to any backend that lacks them. Its examples are not kept. It sets no timer, so an idle one costs nothing.
 */
import { DurableObject } from "cloudflare:workers";
import { limits } from "../../shared/contracts/limits.ts";

const schema = `
  CREATE TABLE IF NOT EXISTS adapters (
    name TEXT PRIMARY KEY, hash TEXT NOT NULL, record TEXT NOT NULL, file BLOB NOT NULL
  ) WITHOUT ROWID;
`;

/** What became of an adapter that was to be added. */
export type Added = "added" | "taken" | "full";

export class AdapterShelf extends DurableObject<Env> {
  readonly #sql: SqlStorage;

  constructor(state: DurableObjectState, env: Env) {
    super(state, env);
    this.#sql = state.storage.sql;
    this.#sql.exec(schema);
  }

  /** Records as JSON, in order of name. */
  list(): string[] {
    const rows = this.#sql.exec<{ record: string }>("SELECT record FROM adapters ORDER BY name");
    return [...rows].map(({ record }) => record);
  }

  /** A record as JSON. */
  find(name: string): string | null {
    const [row] = this.#sql.exec<{ record: string }>("SELECT record FROM adapters WHERE name = ?", name);
    return row?.record ?? null;
  }

  /** Whether one of this name could be added. */
  roomFor(name: string): Added {
    if (this.find(name)) return "taken";
    const { count } = this.#sql.exec<{ count: number }>("SELECT count(*) AS count FROM adapters").one();
    return count < limits.adaptersPerTenant ? "added" : "full";
  }

  add(name: string, hash: string, record: string, file: ArrayBuffer): Added {
    const room = this.roomFor(name);
    if (room === "added") this.#sql.exec("INSERT INTO adapters VALUES (?, ?, ?, ?)", name, hash, record, file);
    return room;
  }

  /** The hash of the removed one, and whether no other name has the same; null where there is none. */
  remove(name: string): { hash: string; isLast: boolean } | null {
    const [row] = this.#sql.exec<{ hash: string }>("SELECT hash FROM adapters WHERE name = ?", name);
    if (!row) return null;
    this.#sql.exec("DELETE FROM adapters WHERE name = ?", name);
    return { hash: row.hash, isLast: this.file(row.hash) === null };
  }

  /** The bytes of an adapter; null where no adapter has this hash. */
  file(hash: string): ArrayBuffer | null {
    const [row] = this.#sql.exec<{ file: ArrayBuffer }>("SELECT file FROM adapters WHERE hash = ? LIMIT 1", hash);
    return row?.file ?? null;
  }
}
