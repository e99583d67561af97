/** Reads the KV namespace and caches its records in the isolate for about a second. */
import { endPrefix, keyPrefix, revokedPrefix } from "../../shared/contracts/tenants.ts";
import { setNewest } from "../platform/newest.ts";
import { Refreshed } from "../platform/refreshed.ts";

/** The methods of a KV namespace in use. */
export interface Namespace {
  get(name: string, options: { type: "json"; cacheTtl: number }): Promise<unknown>;
  list(options: { prefix: string; cursor?: string }): Promise<NamePage>;
}

type NamePage = { keys: { name: string }[] } & ({ list_complete: true } | { list_complete: false; cursor: string });

export interface Records {
  /** What `parse` makes of a record, of a key's a StoredKey, or of null. Rejects if it cannot be read and is not cached. */
  get<T>(name: string, parse: (stored: unknown) => T): Promise<T>;
  /** True if a record of that name (not its absence) is cached, whatever its age. */
  isCached(name: string): boolean;
  /** True if the listing of key records has the name, or if there is no listing yet. Lists at most once per 10 s. */
  mayHaveKey(name: string): Promise<boolean>;
}

/** A key's record, its end (KeyEnd) and its Revocation, cached together. */
export interface StoredKey {
  record: unknown;
  end: unknown;
  revocation: unknown;
}

/** How long a city serves a record from its own cache, in seconds. KV's default, and the delay of a change. */
export const cacheSeconds = 60;
/** A revoked key is accepted for at most 1 s, 2 s while its record is being read again, plus `cacheSeconds`. */
export const recordTimes = { refreshMs: 600, expireMs: 1000, usableMs: 2000, limitMs: 5000, isShared: false };
/** The age of the listing bounds the delay for a new key on a network that is refused look-ups. */
const listingTimes = {
  ...{ refreshMs: 10_000, expireMs: 10_000, usableMs: Number.POSITIVE_INFINITY },
  ...{ limitMs: 5000, isShared: false },
};
/** Cached names per isolate. Missing names have their own cache, since anybody can invent them. */
const maxNames = 1000;
/** Maximum names in the listing (ten pages). Later key records count as absent. */
const maxListedNames = 10_000;

/** `background` keeps a read alive after its response (waitUntil). */
export function createRecords(
  namespace: Namespace,
  now: () => number,
  background: (read: Promise<void>) => void,
): Records {
  const parts = { now, background };
  const found = new Map<string, Refreshed<unknown>>();
  const missing = new Map<string, Refreshed<unknown>>();
  /** null: the names could not be listed. */
  const listing = new Refreshed<Set<string> | null>(parts, listingTimes);

  async function stored(name: string): Promise<unknown> {
    const get = (one: string) => namespace.get(one, { type: "json", cacheTtl: cacheSeconds });
    if (!name.startsWith(keyPrefix)) return get(name);
    const id = name.slice(keyPrefix.length);
    const [record, end, revocation] = await Promise.all([get(name), get(endPrefix + id), get(revokedPrefix + id)]);
    return record === null ? null : ({ record, end, revocation } satisfies StoredKey);
  }

  async function listKeys(): Promise<Set<string>> {
    const names = new Set<string>();
    let cursor: string | undefined;
    do {
      const page: NamePage = await namespace.list({ prefix: keyPrefix, ...(cursor !== undefined && { cursor }) });
      for (const { name } of page.keys) names.add(name);
      cursor = page.list_complete ? undefined : page.cursor;
    } while (cursor !== undefined && names.size < maxListedNames);
    return names;
  }

  return {
    isCached: (name) => found.has(name),
    async mayHaveKey(name) {
      // A request does not wait for the listing of another one.
      if (listing.last === null && listing.isLoading) return true;
      const names = await listing.get(() => listKeys().catch(() => listing.last)).catch(() => null);
      return names === null || names.has(name);
    },
    async get<T>(name: string, parse: (stored: unknown) => T) {
      const cached = found.get(name) ?? missing.get(name) ?? new Refreshed<unknown>(parts, recordTimes);
      const record = await cached.get(async () => parse(await stored(name)));
      const [into, other] = record === null ? [missing, found] : [found, missing];
      other.delete(name);
      setNewest(into, name, cached, maxNames);
      return record as T;
    },
  };
}
