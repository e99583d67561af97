/** Records of the KV namespace, each remembered for a moment per isolate. Not here: what they mean. */
import { setNewest } from "./newest.ts";

/** What of a KV namespace is needed. */
export interface Namespace {
  get(name: string, type: "json"): Promise<unknown>;
}

export interface Records {
  /** The record as JSON gives it, or null. Rejects where the namespace cannot be read and nothing is remembered. */
  get(name: string): Promise<unknown>;
  /** Whether a record of that name, and not that there is none, is remembered, however long ago it was read. */
  remembers(name: string): boolean;
}

/**
 * So long a revoked key may still pass in an isolate, and as long again while it is being read, on top of what KV itself
 * takes: a minute or so away from home.
 */
const rememberMs = 1000;
/** From then on it is read again behind whoever asks, so that steady traffic never waits for it. */
const refreshMs = 600;
/** Names can be made up by anybody; the oldest are forgotten. */
const rememberedNames = 1000;

interface Remembered {
  readMs: number;
  record: unknown;
}

/**
 * Every request awaits its own read alone: the platform fails who waits for a promise that another request began, once in
 * a while. So while one reads, the others take what is remembered. `hold` keeps a read going behind the response.
 */
export function createRecords(
  namespace: Namespace,
  now: () => number,
  hold: (read: Promise<unknown>) => void,
): Records {
  const remembered = new Map<string, Remembered>();
  /** When the latest read of a name began that has not ended. */
  const reading = new Map<string, number>();

  async function read(name: string): Promise<unknown> {
    const begunMs = now();
    reading.set(name, begunMs);
    try {
      const record = await namespace.get(name, "json");
      setNewest(remembered, name, { readMs: now(), record }, rememberedNames);
      return record;
    } finally {
      if (reading.get(name) === begunMs) reading.delete(name);
    }
  }

  /** Whether somebody reads it; a read that seems to hang counts for nothing. */
  const isRead = (name: string) => now() - (reading.get(name) ?? Number.NEGATIVE_INFINITY) < rememberMs;

  return {
    remembers: (name) => (remembered.get(name)?.record ?? null) !== null,
    async get(name) {
      const known = remembered.get(name);
      const ageMs = known ? now() - known.readMs : Number.POSITIVE_INFINITY;
      if (known && ageMs < rememberMs) {
        if (ageMs >= refreshMs && !isRead(name)) hold(read(name).catch(() => undefined));
        return known.record;
      }
      if (known && ageMs < 2 * rememberMs && isRead(name)) return known.record;
      try {
        return await read(name);
      } catch (error) {
        // Better an answer from a moment ago than none.
        if (known) return known.record;
        throw error;
      }
    },
  };
}
