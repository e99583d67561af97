/**
 * Runs inside workerd, around a Worker that does not know of it: gives requests a region, and delays whatever leaves it.
 * A call to an object or backend of another region takes half a round trip there and half back, and so does each chunk of its
 * body, without holding up the next. The object is where the first call of its name asked for, else in `home`. Each call is
 * recorded. Not delayed: KV, R2 and static assets.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { type Region, regions } from "../../../edge/platform/region.ts";
import { controlPath, type Event, firstToken, home, originOf, type RegionalSettings, regionHeader } from "./world.ts";

/** Structural types: the runtime's own are not those of this folder's compiler settings. */
interface Stub {
  fetch(url: string, init: RequestInit): Promise<Response>;
}
interface Namespace {
  getByName(name: string, options?: { locationHint?: Region }): Stub;
}
type Bindings = Record<string, unknown> & { REGIONAL: string };
interface Handler {
  fetch(request: Request): Promise<Response>;
}

let raw: Bindings;
let settings: RegionalSettings;
let roundTripMs = 0;
let events: Event[] = [];
/** Binding/name → region. */
const placed = new Map<string, Region>();
const callers = new AsyncLocalStorage<Region>();

/** Replaces bindings in the Worker's environment. Must run before the Worker's own modules. */
export function install(env: Bindings): void {
  raw = { ...env };
  settings = JSON.parse(raw.REGIONAL) as RegionalSettings;
  Object.assign(
    env,
    bindingsFrom(() => callers.getStore() ?? home),
  );
}

/** The environment of the object of that name. */
export function objectEnvironment(binding: string, name: string): Bindings {
  const region = placed.get(`${binding}/${name}`) ?? home;
  return { ...raw, ...bindingsFrom(() => region) };
}

/** The Worker, with a path by which a test sets the round trip and takes the recorded events. */
export function inRegions(app: Handler): Handler {
  return {
    async fetch(request) {
      if (new URL(request.url).pathname === controlPath) {
        ({ roundTripMs } = (await request.json()) as { roundTripMs: number });
        const taken = events;
        events = [];
        return Response.json(taken);
      }
      const region = regions.find((one) => one === request.headers.get(regionHeader)) ?? home;
      const arrived = new Request(request, { cf: originOf[region] } as RequestInit);
      const response = await callers.run(region, () => app.fetch(arrived));
      if (!response.headers.get("content-type")?.startsWith("text/event-stream") || !response.body) return response;
      return new Response(response.body.pipeThrough(firstTokenRecorder(region)), response);
    },
  };
}

/** Records when the client gets its first token. */
function firstTokenRecorder(region: Region): TransformStream<Uint8Array, Uint8Array> {
  const decoder = new TextDecoder();
  let isRecorded = false;
  return new TransformStream({
    transform(chunk, controller) {
      if (!isRecorded && decoder.decode(chunk).includes("data: {")) {
        isRecorded = true;
        events.push({ what: firstToken, from: region, to: region, object: "" });
      }
      controller.enqueue(chunk);
    },
  });
}

function bindingsFrom(from: () => Region): Record<string, unknown> {
  const namespaces = settings.namespaces.map((binding) => [binding, namespaceFrom(from, binding)]);
  return {
    ...Object.fromEntries(namespaces),
    // The binding of a client certificate is the Worker's way to its backends.
    BACKEND_CERTIFICATE: {
      fetch: (url: string, init: RequestInit) => {
        const { origin, pathname } = new URL(url);
        const call = { what: `backend ${pathname}`, from: from(), to: settings.backends[origin], object: origin };
        return fetchAcross(call, () => fetch(url, init));
      },
    },
  };
}

function namespaceFrom(from: () => Region, binding: string): Namespace {
  const namespace = raw[binding] as Namespace;
  return {
    getByName(name, options) {
      const key = `${binding}/${name}`;
      const to = placed.get(key) ?? options?.locationHint ?? home;
      placed.set(key, to);
      const stub = namespace.getByName(name, options) as Stub &
        Record<string, (...args: unknown[]) => Promise<unknown>>;
      const callOf = (what: string): Event => ({ what, from: from(), to, object: name });
      // An object's other requests are POST.
      const fetchOf = ({ method }: RequestInit) => callOf(`${binding} ${method === "GET" ? "wake" : "fetch"}`);
      return new Proxy(stub, {
        get: (_, method: string) =>
          method === "fetch"
            ? (url: string, init: RequestInit) => fetchAcross(fetchOf(init), () => stub.fetch(url, init))
            : (...args: unknown[]) => across(callOf(`${binding} ${method}`), () => stub[method](...args)),
      });
    },
  };
}

/** Half a round trip passes before the call, and half before its outcome. */
async function across<T>(event: Event, call: (legMs: number) => Promise<T>): Promise<T> {
  events.push(event);
  const legMs = event.from === event.to ? 0 : roundTripMs / 2;
  await passed(legMs);
  try {
    return await call(legMs);
  } finally {
    await passed(legMs);
  }
}

function fetchAcross(event: Event, send: () => Promise<Response>): Promise<Response> {
  return across(event, async (legMs) => {
    const response = await send();
    if (event.from === event.to || !response.body) return response;
    return new Response(late(response.body, legMs), response);
  });
}

async function passed(ms: number): Promise<void> {
  if (ms > 0) await new Promise((resolve) => setTimeout(resolve, ms));
}

/** Each chunk `ms` after it came; as many as come are on their way at once. */
export function late(body: ReadableStream<Uint8Array>, ms: number): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  let isCancelled = false;
  return new ReadableStream({
    start(controller) {
      const arrive = async (work: () => void) => {
        await passed(ms);
        if (!isCancelled) work();
      };
      const pump = async () => {
        for (;;) {
          const { done, value } = await reader.read();
          if (done) return arrive(() => controller.close());
          void arrive(() => controller.enqueue(value));
        }
      };
      pump().catch((error) => arrive(() => controller.error(error)));
    },
    cancel(reason) {
      isCancelled = true;
      return reader.cancel(reason);
    },
  });
}
