/**
 * The only way to Durable Objects: by name. `eu:` before a name keeps its object in that jurisdiction: the platform runs it and
 * stores its data there, wherever it is called from. The same name without it is another object. A tenant's own ledger and its
 * adapters have its name.
 * https://developers.cloudflare.com/durable-objects/reference/data-location/
 */
import { type Jurisdiction, jurisdictionOf } from "../../shared/contracts/tenant-name.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Region } from "./region.ts";

/** The methods of a DurableObjectNamespace in use. */
export interface ObjectNamespace<Stub> {
  jurisdiction(name: Jurisdiction): ObjectNamespace<Stub>;
  getByName(name: string, options: { locationHint?: Region }): Stub;
}

/** The object of that name; `region` is where it is created if there is none yet. Throws where the runtime has no jurisdictions. */
export function objectNamed<Stub>(namespace: ObjectNamespace<Stub>, name: string, region: Region | null = null): Stub {
  const jurisdiction = jurisdictionOf(name);
  const within = jurisdiction === null ? namespace : restricted(namespace, jurisdiction);
  return within.getByName(name, region === null ? {} : { locationHint: region });
}

/** A bare workerd, as `npm start` runs, has no jurisdictions. It must not serve such a tenant from anywhere else. */
function restricted<Stub>(namespace: ObjectNamespace<Stub>, jurisdiction: Jurisdiction): ObjectNamespace<Stub> {
  try {
    return namespace.jurisdiction(jurisdiction);
  } catch (cause) {
    const message = `This tenant's data must stay in the jurisdiction ${jurisdiction}, and this runtime has no jurisdictions.`;
    throw new ServiceError("backend_unavailable", message, { cause });
  }
}
