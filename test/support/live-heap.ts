/**
 * Bytes that a Worker and its Durable Objects hold in workerd after garbage collection, read through its inspector.
 */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

interface LiveHeap {
  /** Objects and strings. */
  heap: number;
  /** Contents of buffers, which lie outside of the heap. */
  buffers: number;
}

interface HeapWatch {
  /** Collects garbage until no more is found, and resolves to the bytes that are left. */
  live(): Promise<LiveHeap>;
  close(): void;
}

function bytesOf({ heap, buffers }: LiveHeap): number {
  return heap + buffers;
}

interface Message {
  id: number;
  result?: Record<string, unknown>;
  error?: { message: string };
}

/** Maximum collections for one reading. A collection frees what earlier finalized objects held. */
const mostCollections = 20;
/** A reading ends after this many collections that free nothing. One is not enough, because it may run before objects are finalized. */
const lastCollections = 3;
const settledBytes = 20_000;
/** Time for a command to reach an isolate before `touch` makes the isolate run, and time for finalizers. */
const settleMs = 20;

/**
 * `url` is the inspector's WebSocket. `touch` makes the isolate do something, since workerd lets an isolate collect only then. Rejects if
 * the process ends.
 */
export async function watchHeap(url: string, touch: () => Promise<void>): Promise<HeapWatch> {
  const { send, close } = await openSession(url);
  const collected = async (): Promise<LiveHeap> => {
    const read = () => send("Runtime.getHeapUsage");
    // Garbage only adds to a reading, so the smaller of two is closer to the truth. The first is taken at once, before an isolate
    // under load makes new garbage; the second after a pause, in which collected objects are finalized.
    const collecting = send("HeapProfiler.collectGarbage");
    const reading = read();
    await sleep(settleMs);
    await Promise.all([collecting, reading, touch()]);
    await sleep(settleMs);
    const [atOnce, settled] = [await reading, await read()].map((usage) => ({
      heap: Number(usage.usedSize),
      buffers: Number(usage.backingStorageSize),
    }));
    return bytesOf(atOnce) < bytesOf(settled) ? atOnce : settled;
  };
  return {
    async live() {
      let least = await collected();
      for (let i = 1, without = 0; i < mostCollections && without < lastCollections; i++) {
        const next = await collected();
        without = bytesOf(next) < bytesOf(least) - settledBytes ? 0 : without + 1;
        if (bytesOf(next) < bytesOf(least)) least = next;
      }
      return least;
    },
    close,
  };
}

/** Connects to an inspector. `send` sends a command of Chrome's protocol and resolves to its result. */
async function openSession(url: string) {
  const socket = new WebSocket(url);
  await once(socket, "open");
  const answers = new Map<number, (message: Message) => void>();
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => undefined);
  socket.addEventListener("close", () => ended.reject(new Error(`the inspector at ${url} has gone`)));
  socket.addEventListener("message", ({ data }) => {
    const message = JSON.parse(String(data)) as Message;
    answers.get(message.id)?.(message);
    answers.delete(message.id);
  });
  let sent = 0;
  const send = async (method: string): Promise<Record<string, unknown>> => {
    const id = ++sent;
    const answered = new Promise<Message>((resolve) => void answers.set(id, resolve));
    socket.send(JSON.stringify({ id, method, params: {} }));
    const { result, error } = await Promise.race([answered, ended.promise]);
    if (!result) throw new Error(`${method}: ${error?.message}`);
    return result;
  };
  return { send, close: () => socket.close() };
}
