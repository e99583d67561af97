/**
 * What JavaScript holds in another process once its garbage is gone, asked through the process's inspector: of a Node
 * process with all its threads, or of a Worker and its Durable Objects in workerd.
 */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

/** Bytes, of all isolates together. */
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
type Isolate = (method: string, params?: object) => Promise<Record<string, unknown>>;

interface Message {
  id?: number;
  method?: string;
  params?: { sessionId: string; message: string };
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
 * `urls` are WebSockets. `touch` gives every isolate something to do: workerd lets one collect only then. Ends with an Error
 * where the process does.
 */
export async function watchHeap(urls: readonly string[], touch = async () => {}): Promise<HeapWatch> {
  const sessions = await Promise.all(urls.map(openSession));
  const collected = async (): Promise<LiveHeap> => {
    const isolates = sessions.flatMap((session) => [...session.isolates.values()]);
    const read = () => Promise.all(isolates.map((isolate) => isolate("Runtime.getHeapUsage")));
    // Garbage only adds, so the smaller of two readings is the truer: at once, before an isolate under load makes new
    // garbage, and after a pause, when what the collection found has been finalized.
    const collecting = Promise.all(isolates.map((isolate) => isolate("HeapProfiler.collectGarbage")));
    const reading = read();
    await sleep(settleMs);
    await Promise.all([collecting, reading, touch()]);
    await sleep(settleMs);
    const [atOnce, settled] = [await reading, await read()].map((usages) => ({
      heap: usages.reduce((sum, usage) => sum + Number(usage.usedSize), 0),
      buffers: usages.reduce((sum, usage) => sum + Number(usage.backingStorageSize), 0),
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
    close() {
      for (const { close } of sessions) close();
    },
  };
}

/** The isolate at a WebSocket and, of a Node process, those of its threads. */
async function openSession(url: string): Promise<{ isolates: Map<string, Isolate>; close(): void }> {
  const socket = new WebSocket(url);
  await once(socket, "open");
  const isolates = new Map<string, Isolate>();
  const answers = new Map<string, (message: Message) => void>();
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => undefined);
  socket.addEventListener("close", () => ended.reject(new Error(`the inspector at ${url} has gone`)));
  /** `session`: of a thread, or "" of the process's main one. */
  const isolate = (session: string): Isolate => {
    let sent = 0;
    return async (method, params = {}) => {
      const id = ++sent;
      const answered = new Promise<Message>((resolve) => void answers.set(`${session}/${id}`, resolve));
      const message = JSON.stringify({ id, method, params });
      if (session === "") socket.send(message);
      else void main("NodeWorker.sendMessageToWorker", { sessionId: session, message });
      const { result, error } = await Promise.race([answered, ended.promise]);
      if (!result) throw new Error(`${method}: ${error?.message}`);
      return result;
    };
  };
  const main = isolate("");
  isolates.set("", main);
  const heard = (session: string, text: string) => {
    const { id, method, params, ...rest } = JSON.parse(text) as Message;
    if (id !== undefined) {
      answers.get(`${session}/${id}`)?.(rest);
      answers.delete(`${session}/${id}`);
    } else if (method === "NodeWorker.attachedToWorker") isolates.set(params!.sessionId, isolate(params!.sessionId));
    else if (method === "NodeWorker.detachedFromWorker") isolates.delete(params!.sessionId);
    else if (method === "NodeWorker.receivedMessageFromWorker") heard(params!.sessionId, params!.message);
  };
  socket.addEventListener("message", ({ data }) => heard("", String(data)));
  // workerd has no such command.
  await main("NodeWorker.enable", { waitForDebuggerOnStart: false }).catch(() => undefined);
  return { isolates, close: () => socket.close() };
}
