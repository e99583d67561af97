/** What a Worker and its Durable Objects hold in workerd once their garbage is collected, asked through the inspector. */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

/** Bytes. */
export interface LiveHeap {
  /** Objects and strings. */
  heap: number;
  /** What buffers hold outside of the heap. */
  buffers: number;
}

export interface HeapWatch {
  /** Has garbage collected until no more is found, and says what is left. */
  live(): Promise<LiveHeap>;
  close(): void;
}

function bytesOf({ heap, buffers }: LiveHeap): number {
  return heap + buffers;
}

/** One isolate: sends a command of Chrome's protocol, resolves to its result. */
type Isolate = (method: string) => Promise<Record<string, unknown>>;

interface Message {
  id?: number;
  result?: Record<string, unknown>;
  error?: { message: string };
}

/** What is finalized after one collection, or ends meanwhile, lets go of more in the next. */
const mostCollections = 20;
/** So many collections in a row that find no more than this end the search; one alone may come before anything is finalized. */
const lastCollections = 3;
const settledBytes = 20_000;
/** For a command to arrive before what is to carry it out, and for that to end. */
const settleMs = 20;

/**
 * `url` is a WebSocket. `touch` gives the isolate something to do: workerd lets it collect only then. Throws an Error where the
 * process ends.
 */
export async function watchHeap(url: string, touch: () => Promise<void>): Promise<HeapWatch> {
  const { send, close } = await openSession(url);
  const collected = async (): Promise<LiveHeap> => {
    const read = async (): Promise<LiveHeap> => {
      const usage = await send("Runtime.getHeapUsage");
      return { heap: Number(usage.usedSize), buffers: Number(usage.backingStorageSize) };
    };
    // Garbage only adds, so the smaller of two readings is the truer: at once, before an isolate under load makes new
    // garbage, and after a pause, when what the collection found has been finalized.
    const collecting = send("HeapProfiler.collectGarbage");
    const reading = read();
    await sleep(settleMs);
    await Promise.all([collecting, reading, touch()]);
    await sleep(settleMs);
    const [atOnce, settled] = [await reading, await read()];
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

/** The isolate at a WebSocket. */
async function openSession(url: string): Promise<{ send: Isolate; close(): void }> {
  const socket = new WebSocket(url);
  await once(socket, "open");
  const answers = new Map<number, (message: Message) => void>();
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => undefined);
  socket.addEventListener("close", () => ended.reject(new Error(`the inspector at ${url} has gone`)));
  socket.addEventListener("message", ({ data }) => {
    const message = JSON.parse(String(data)) as Message;
    answers.get(message.id!)?.(message);
  });
  let sent = 0;
  const send: Isolate = async (method) => {
    const id = ++sent;
    const answered = new Promise<Message>((resolve) => void answers.set(id, resolve));
    socket.send(JSON.stringify({ id, method }));
    const { result, error } = await Promise.race([answered, ended.promise]);
    if (!result) throw new Error(`${method}: ${error?.message}`);
    return result;
  };
  return { send, close: () => socket.close() };
}
