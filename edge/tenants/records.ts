/** Reads the KV namespace, and caches its records in the isolate for about a second. Not here: what the records mean. */
import { keyPrefix } from "../../shared/contracts/tenants.ts";
import { setNewest } from "./newest.ts";

/** The part of a KV namespace that is used. */
export interface Namespace {
  get(name: string, type: "json"): Promise<unknown>;
  list(options: { prefix: string; cursor?: string }): Promise<NamePage>;
}

type NamePage = { keys: { name: string }[] } & ({ list_complete: true } | { list_complete: false; cursor: string });

export interface Records {
  /** The record as parsed JSON, or null. Rejects where the namespace cannot be read and nothing is cached. */
  get(name: string): Promise<unknown>;
  /** Whether a record of that name (not its absence) is cached, however long ago it was read. */
  remembers(name: string): boolean;
  /**
   * Whether a key record of that name may exist, by a listing of all of them that is at most `listedMs` old. True where
   * there is no listing yet. Costs one listing per `listedMs`, however often it is asked.
   */
  mayHaveKey(name: string): Promise<boolean>;
}

/**
 * How long a revoked key may still pass in an isolate, in milliseconds; as long again while it is being read, and on top
 * of that what KV itself caches, about a minute.
 */
const rememberMs = 1000;
/** From this age on a record is read again in the background, so that steady traffic never waits for a read. */
const refreshMs = 600;
/** Per isolate. Names that exist and names that do not are cached apart: anybody can make up the latter. */
const rememberedNames = 1000;
/** A new key waits at most this long, and only on a network that failed too often. Milliseconds. */
const listedMs = 10_000;
/** A listing that takes longer counts as failed. Milliseconds. */
const listingMs = 5000;
/** Ten pages of a listing. Key records past them count as absent. */
const mostListedNames = 10_000;

interface Remembered {
  readMs: number;
  record: unknown;
}

/**
 * Every request awaits only reads that it began itself: workerd may fail a request that awaits a promise of another one.
 * While one request reads, the others use what is cached. `hold` keeps a read alive past its response (waitUntil).
 */
export function createRecords(
  namespace: Namespace,
  now: () => number,
  hold: (read: Promise<unknown>) => void,
): Records {
  const found = new Map<string, Remembered>();
  const missing = new Map<string, Remembered>();
  /** Name → when the latest read of it that has not ended began. */
  const reading = new Map<string, number>();
  let listed: { names: Set<string>; readMs: number } | null = null;
  let listingBegunMs = Number.NEGATIVE_INFINITY;

  async function read(name: string): Promise<unknown> {
    const begunMs = now();
    reading.set(name, begunMs);
    try {
      const record = await namespace.get(name, "json");
      const [into, other] = record === null ? [missing, found] : [found, missing];
      other.delete(name);
      setNewest(into, name, { readMs: now(), record }, rememberedNames);
      return record;
    } finally {
      if (reading.get(name) === begunMs) reading.delete(name);
    }
  }

  /** Whether a request is reading it. A read that hangs stops counting. */
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
      // A listing that fails is not tried again before `listingMs`.
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
        // A record from a moment ago is better than a failure.
        if (known) return known.record;
        throw error;
      }
    },
  };
}
