/** Reads the KV namespace and caches its records in the isolate for about a second. Not here: the meaning of records. */
import { endPrefix, keyPrefix, revokedPrefix } from "../../shared/contracts/tenants.ts";
import { steadyClock } from "../platform/clock.ts";
import { setNewest } from "../platform/newest.ts";

/** The methods of a KV namespace in use. */
export interface Namespace {
  get(name: string, options: { type: "json"; cacheTtl: number }): Promise<unknown>;
  list(options: { prefix: string; cursor?: string }): Promise<NamePage>;
}

type NamePage = { keys: { name: string }[] } & ({ list_complete: true } | { list_complete: false; cursor: string });

export interface Records {
  /**
   * The record as parsed JSON, or null; of a key, a StoredKey. Rejects if the namespace cannot be read and nothing is cached.
   */
  get(name: string): Promise<unknown>;
  /** True if a record of that name (not its absence) is cached, whatever its age. */
  remembers(name: string): boolean;
  /**
   * True if the cached listing of key records contains the name, or if there is no listing yet. Lists the namespace at most
   * once per `listedMs`.
   */
  mayHaveKey(name: string): Promise<boolean>;
}

/** A key's record, its end (KeyEnd) and its Revocation, which are read at the same time and cached together. */
export interface StoredKey {
  record: unknown;
  end: unknown;
  revocation: unknown;
}

/**
 * Maximum age of a cached record in milliseconds, doubled while the record is being read again. A revoked key is accepted for
 * at most this time, plus `cacheSeconds`.
 */
const rememberMs = 1000;
/** How long a city serves a record from its own cache, in seconds. KV's default, and the delay of a change. */
const cacheSeconds = 60;
/** Age from which a record is read again in the background, in milliseconds, so that steady traffic waits for no read. */
const refreshMs = 600;
/** Cached names per isolate. Missing names have their own cache, since anybody can invent them. */
const rememberedNames = 1000;
/** Maximum age of the key listing, in milliseconds; bounds the delay for a new key on a blocked network. */
const listedMs = 10_000;
/** A listing that takes longer counts as failed, in milliseconds. */
const listingMs = 5000;
/** Maximum names in the listing (ten pages). Later key records count as absent. */
const mostListedNames = 10_000;

interface Remembered {
  readMs: number;
  record: unknown;
}

/**
 * A request awaits only its own reads: workerd may fail a request that awaits another request's promise. While one request
 * reads, the others use the cache. `hold` keeps a read alive after its response (waitUntil).
 */
export function createRecords(
  namespace: Namespace,
  systemNow: () => number,
  hold: (read: Promise<unknown>) => void,
): Records {
  const now = steadyClock(systemNow);
  const found = new Map<string, Remembered>();
  const missing = new Map<string, Remembered>();
  /** Name → start of the latest pending read. */
  const reading = new Map<string, number>();
  let listed: { names: Set<string>; readMs: number } | null = null;
  let listingBegunMs = Number.NEGATIVE_INFINITY;

  async function stored(name: string): Promise<unknown> {
    const get = (one: string) => namespace.get(one, { type: "json", cacheTtl: cacheSeconds });
    if (!name.startsWith(keyPrefix)) return get(name);
    const id = name.slice(keyPrefix.length);
    const [record, end, revocation] = await Promise.all([get(name), get(endPrefix + id), get(revokedPrefix + id)]);
    return record === null ? null : ({ record, end, revocation } satisfies StoredKey);
  }

  async function read(name: string): Promise<unknown> {
    const begunMs = now();
    reading.set(name, begunMs);
    try {
      const record = await stored(name);
      const [into, other] = record === null ? [missing, found] : [found, missing];
      other.delete(name);
      setNewest(into, name, { readMs: now(), record }, rememberedNames);
      return record;
    } finally {
      if (reading.get(name) === begunMs) reading.delete(name);
    }
  }

  /** True while a request is reading the record; a read stops counting after `rememberMs`. */
  const isRead = (name: string) => now() - (reading.get(name) ?? Number.NEGATIVE_INFINITY) < rememberMs;

  async function listKeys(): Promise<void> {
    listingBegunMs = now();
    const names = new Set<string>();
    let cursor: string | undefined;
    do {
      const page: NamePage = await namespace.list({ prefix: keyPrefix, ...(cursor !== undefined && { cursor }) });
      for (const { name } of page.keys) names.add(name);
      cursor = page.list_complete ? undefined : page.cursor;
    } while (cursor !== undefined && names.size < mostListedNames);
    listed = { names, readMs: now() };
  }

  return {
    remembers: (name) => found.has(name),
    async mayHaveKey(name) {
      const isFresh = listed !== null && now() - listed.readMs < listedMs;
      const isBeingListed = now() - listingBegunMs < listingMs;
      // A failed listing is retried after `listingMs`.
      if (!isFresh && !isBeingListed) await listKeys().catch(() => undefined);
      return listed === null || listed.names.has(name);
    },
    async get(name) {
      const known = found.get(name) ?? missing.get(name);
      const ageMs = known ? now() - known.readMs : Number.POSITIVE_INFINITY;
      if (known && ageMs < rememberMs) {
        if (ageMs >= refreshMs && !isRead(name)) hold(read(name).catch(() => undefined));
        return known.record;
      }
      if (known && ageMs < 2 * rememberMs && isRead(name)) return known.record;
      try {
        return await read(name);
      } catch (error) {
        // An old record is better than a failure.
        if (known) return known.record;
        throw error;
      }
    },
  };
}
