/** Records of the KV namespace, each remembered for a moment per isolate. Not here: what they mean. */

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

/** So long a revoked key may still pass in an isolate, on top of what KV itself takes: a minute or so away from home. */
const rememberMs = 1000;
/** From then on it is read again behind whoever asks, so that steady traffic never waits for it. */
const refreshMs = 600;
/** Names can be made up by anybody; the oldest are forgotten. */
const rememberedNames = 1000;

interface Remembered {
  readMs: number;
  record: unknown;
}

/** `hold` keeps a read going when the request that began it has ended, as others may wait for it. */
export function createRecords(
  namespace: Namespace,
  now: () => number,
  hold: (read: Promise<unknown>) => void,
): Records {
  const remembered = new Map<string, Remembered>();
  const reading = new Map<string, { begunMs: number; record: Promise<unknown> }>();

  async function read(name: string): Promise<unknown> {
    const record = await namespace.get(name, "json");
    remembered.delete(name);
    remembered.set(name, { readMs: now(), record });
    if (remembered.size > rememberedNames) remembered.delete(remembered.keys().next().value!);
    return record;
  }

  /** A thousand requests at once read a record once; nobody joins a read that seems to hang. */
  function readOnce(name: string): Promise<unknown> {
    const begun = reading.get(name);
    if (begun && now() - begun.begunMs < rememberMs) return begun.record;
    const record = read(name).finally(() => reading.delete(name));
    reading.set(name, { begunMs: now(), record });
    hold(record.catch(() => undefined));
    return record;
  }

  return {
    remembers: (name) => (remembered.get(name)?.record ?? null) !== null,
    async get(name) {
      const known = remembered.get(name);
      const ageMs = known ? now() - known.readMs : Number.POSITIVE_INFINITY;
      if (known && ageMs < rememberMs) {
        if (ageMs >= refreshMs) void readOnce(name);
        return known.record;
      }
      try {
        return await readOnce(name);
      } catch (error) {
        // Better an answer from a moment ago than none.
        if (known) return known.record;
        throw error;
      }
    },
  };
}
