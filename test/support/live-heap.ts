/**
 * Bytes that another process's JavaScript holds after garbage collection, read through its inspector. The process is Node, or workerd with
 * a Worker and its Durable Objects.
 */
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";

/** Sums over all isolates. */
export interface LiveHeap {
  heap: number;
  /** Contents of buffers, which lie outside of the heap. */
  buffers: number;
}

export interface HeapWatch {
  live(): Promise<LiveHeap>;
  close(): void;
}

function bytesOf({ heap, buffers }: LiveHeap): number {
  return heap + buffers;
}

/** Sends an isolate a command of Chrome's protocol. Resolves to the result. */
type Isolate = (method: string, params?: object) => Promise<Record<string, unknown>>;

interface Message {
  id?: number;
  method?: string;
  params?: { sessionId: string; message: string };
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
 * `urls`: the inspectors' WebSockets. `touch` makes every isolate do something, because workerd collects only then. Rejects if the process
 * ends.
 */
export async function watchHeap(urls: readonly string[], touch = async () => {}): Promise<HeapWatch> {
  const sessions = await Promise.all(urls.map(openSession));
  const collected = async (): Promise<LiveHeap> => {
    const isolates = sessions.flatMap((session) => [...session.isolates.values()]);
    const read = () => Promise.all(isolates.map((isolate) => isolate("Runtime.getHeapUsage")));
    // Garbage only adds to a reading, so the smaller of two readings counts. The second reading comes after a pause, in which collected
    // objects are finalized.
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

/** The isolate at a WebSocket and, for Node, the isolates of its threads. */
async function openSession(url: string): Promise<{ isolates: Map<string, Isolate>; close(): void }> {
  const socket = new WebSocket(url);
  await once(socket, "open");
  const isolates = new Map<string, Isolate>();
  const answers = new Map<string, (message: Message) => void>();
  const ended = Promise.withResolvers<never>();
  ended.promise.catch(() => undefined);
  socket.addEventListener("close", () => ended.reject(new Error(`the inspector at ${url} has gone`)));
  /** `session`: id of a thread's session, or "" for the main thread. */
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
  // workerd does not know this command.
  await main("NodeWorker.enable", { waitForDebuggerOnStart: false }).catch(() => undefined);
  return { isolates, close: () => socket.close() };
}
