import * as z from "zod";
import {
  endPrefix,
  keyEndSchema,
  keyPrefix,
  keyRecordSchema,
  revocationSchema,
  revokedPrefix,
  withEnd,
} from "../../shared/contracts/tenants.ts";
import { setNewest } from "../platform/newest.ts";
import { Refreshed } from "../platform/refreshed.ts";

export interface Namespace {
  get(name: string, options: { type: "json"; cacheTtl: number }): Promise<unknown>;
  list(options: { prefix: string; cursor?: string }): Promise<NamePage>;
}

interface RecordName {
  name: string;
  metadata?: unknown;
}
type NamePage = { keys: RecordName[] } & ({ list_complete: true } | { list_complete: false; cursor: string });

export type Records = ReturnType<typeof createRecords>;

export const storedKeySchema = z
  .object({ record: keyRecordSchema, end: keyEndSchema.nullable(), revocation: revocationSchema.nullable() })
  .transform(({ record, end, revocation }) => withEnd(record, end, revocation));

export async function* namesWith({ list }: Pick<Namespace, "list">, prefix: string): AsyncGenerator<RecordName> {
  let cursor: string | undefined;
  do {
    const page: NamePage = await list({ prefix, ...(cursor !== undefined && { cursor }) });
    yield* page.keys;
    cursor = page.list_complete ? undefined : page.cursor;
  } while (cursor !== undefined);
}

/** Time for which a Cloudflare location caches a record, in seconds: KV's default. */
export const cacheSeconds = 60;
/** With these times, an isolate accepts a revoked key for up to 2 s after `cacheSeconds`, and for longer while KV cannot be read. */
export const recordTimes = { refreshMs: 600, expireMs: 1000, usableMs: 2000, limitMs: 5000, isShared: false };
/** A network that has used up its look-ups can use a new key only after the next listing of all keys. */
const listingTimes = {
  ...{ refreshMs: 10_000, expireMs: 10_000, usableMs: Number.POSITIVE_INFINITY },
  ...{ limitMs: 5000, isShared: false },
};
/** Maximum of cached records, and of names without a record. These names have their own cache, because anybody can invent names. */
const maxNames = 1000;
/** A key beyond this number of listed names counts as unknown. */
const maxListedNames = 10_000;

export function createRecords(namespace: Namespace, now: () => number, background: (read: Promise<void>) => void) {
  const parts = { now, background };
  const found = new Map<string, Refreshed<unknown>>();
  const missing = new Map<string, Refreshed<unknown>>();
  const listing = new Refreshed<Set<string> | null>(parts, listingTimes);

  async function stored(name: string): Promise<unknown> {
    const get = (one: string) => namespace.get(one, { type: "json", cacheTtl: cacheSeconds });
    if (!name.startsWith(keyPrefix)) return get(name);
    const id = name.slice(keyPrefix.length);
    const [record, end, revocation] = await Promise.all([get(name), get(endPrefix + id), get(revokedPrefix + id)]);
    return record === null ? null : { record, end, revocation };
  }

  async function listKeys(): Promise<Set<string>> {
    const names = new Set<string>();
    for await (const { name } of namesWith({ list: (page) => namespace.list(page) }, keyPrefix)) {
      if (names.add(name).size >= maxListedNames) break;
    }
    return names;
  }

  return {
    /** True for a cached record of any age. A name that is cached as absent does not count. */
    isCached: (name: string) => found.has(name),
    /** Whether the listing of key records has the name; true without a listing. The listing is made at most once in 10 s. */
    async mayHaveKey(name: string): Promise<boolean> {
      // A request does not wait for a listing that another request began.
      if (listing.last === null && listing.isLoading) return true;
      const names = await listing.get(() => listKeys().catch(() => listing.last)).catch(() => null);
      return names === null || names.has(name);
    },
    /** `parse` makes the record from the stored value, or from null if none is stored. Rejects if nothing is readable or cached. */
    async get<T>(name: string, parse: (stored: unknown) => T): Promise<T> {
      const cached = found.get(name) ?? missing.get(name) ?? new Refreshed<unknown>(parts, recordTimes);
      const record = await cached.get(async () => parse(await stored(name)));
      const [into, other] = record === null ? [missing, found] : [found, missing];
      other.delete(name);
      setNewest(into, name, cached, maxNames);
      return record as T;
    },
  };
}
