/**
 * Durable Objects by name. A name that begins with `eu:` is created in the jurisdiction EU and stays there.
 * https://developers.cloudflare.com/durable-objects/reference/data-location/
 */
import { type Jurisdiction, jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Region } from "./region.ts";

export interface ObjectNamespace<Stub> {
  jurisdiction(name: Jurisdiction): ObjectNamespace<Stub>;
  getByName(name: string, options: { locationHint?: Region }): Stub;
}

/** A new object is created in `region`. Throws if the name's jurisdiction cannot be guaranteed. */
export function objectNamed<Stub>(namespace: ObjectNamespace<Stub>, name: string, region: Region | null = null): Stub {
  const jurisdiction = jurisdictionOf(name);
  const within = jurisdiction === null ? namespace : restricted(namespace, jurisdiction);
  return within.getByName(name, region === null ? {} : { locationHint: region });
}

/** Throws in a bare workerd (`npm start`), which has no jurisdictions. */
function restricted<Stub>(namespace: ObjectNamespace<Stub>, jurisdiction: Jurisdiction): ObjectNamespace<Stub> {
  try {
    return namespace.jurisdiction(jurisdiction);
  } catch (cause) {
    const message = `This tenant's data must stay in the jurisdiction ${jurisdiction}, and this runtime has no jurisdictions.`;
    throw new ServiceError("backend_unavailable", message, { cause });
  }
}
