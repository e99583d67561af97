/** What tests and the Worker inside workerd (regional-worker.ts) agree on. */
import type { Region } from "../../../edge/platform/region.ts";

/** Region of the objects that ask for none: the tenants' stores. */
export const home: Region = "enam";

/** Header of a request: the region it comes from. */
export const regionHeader = "x-test-region";
/** GET takes the events since the last time. */
export const eventsPath = "/test/regions";

/** A call of the Worker or of an object, or the first token on its way to the client; in the order in which they begin. */
export interface Event {
  /** `LEDGERS admit`, `CELLS fetch`, `CELLS wake`, `backend /v1/batches`, `first token`. */
  what: string;
  from: Region;
  to: Region;
  /** Name of the object, or origin of the backend. */
  object: string;
}

/** The variable REGIONAL, as JSON. */
export interface RegionalSettings {
  /** Bindings of Durable Objects. */
  namespaces: string[];
  /** Origin → region. */
  backends: Record<string, Region>;
}

/** What the platform says of a request from each region (`request.cf`). */
export const originOf: Record<Region, { continent: string; longitude: string; latitude: string }> = {
  wnam: { continent: "NA", longitude: "-122.4", latitude: "37.8" },
  enam: { continent: "NA", longitude: "-74.0", latitude: "40.7" },
  sam: { continent: "SA", longitude: "-46.6", latitude: "-23.6" },
  weur: { continent: "EU", longitude: "2.4", latitude: "48.9" },
  eeur: { continent: "EU", longitude: "21.0", latitude: "52.2" },
  apac: { continent: "AS", longitude: "139.7", latitude: "35.7" },
  oc: { continent: "OC", longitude: "151.2", latitude: "-33.9" },
  afr: { continent: "AF", longitude: "28.0", latitude: "-26.2" },
  me: { continent: "AS", longitude: "55.3", latitude: "25.2" },
};

export const firstToken = "first token";
/** A cold Worker tells its cell to load its artifacts, beside the request and not awaited by it. */
export const wake = "CELLS wake";

/** What a region's request waited for, in order, up to its first token; for one request of the region at a time. */
export function beforeFirstToken(events: readonly Event[], region: Region): Event[] {
  const own = events.filter(({ from }) => from === region);
  const end = own.findIndex(({ what }) => what === firstToken);
  if (end < 0) throw new Error(`no first token went to ${region}`);
  return own.slice(0, end).filter(({ what }) => what !== wake);
}
