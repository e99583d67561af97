/**
 * Runs inside workerd, around a Worker that does not know of it: gives requests a region, and records each call to an object
 * or backend with the regions that it goes from and to. An object is where the first call of its name asked for, else in
 * `home`. Not recorded: KV, R2 and static assets.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { type Region, regions } from "../../../edge/platform/region.ts";
import { type Event, eventsPath, firstToken, home, originOf, type RegionalSettings, regionHeader } from "./world.ts";

/** Structural types: the runtime's own are not those of this folder's compiler settings. */
type Stub = Record<string, (...args: unknown[]) => Promise<unknown>>;
interface Namespace {
  getByName(name: string, options?: { locationHint?: Region }): Stub;
}
type Bindings = Record<string, unknown> & { REGIONAL: string };
interface Handler {
  fetch(request: Request): Promise<Response>;
}

let raw: Bindings;
let settings: RegionalSettings;
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

/** The Worker, with a path by which a test takes the recorded events. */
export function inRegions(app: Handler): Handler {
  return {
    async fetch(request) {
      if (new URL(request.url).pathname === eventsPath) {
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
        events.push({ what: `backend ${pathname}`, from: from(), to: settings.backends[origin], object: origin });
        return fetch(url, init);
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
      const stub = namespace.getByName(name, options);
      const record = (what: string) => events.push({ what: `${binding} ${what}`, from: from(), to, object: name });
      return new Proxy(stub, {
        get:
          (_, method: string) =>
          (...args: unknown[]) => {
            // An object's other requests are POST.
            const isWake = method === "fetch" && (args[1] as RequestInit).method === "GET";
            record(isWake ? "wake" : method);
            return stub[method](...args);
          },
      });
    },
  };
}
