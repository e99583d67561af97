/**
 * Names of Durable Objects, and the only way to them. `eu:` before a name keeps its object in that jurisdiction: the platform
 * runs it and stores its data there, wherever it is called from. The same name without it is another object.
 * https://developers.cloudflare.com/durable-objects/reference/data-location/
 */
import { type Jurisdiction, jurisdictions } from "../../shared/contracts/tenants.ts";
import { ServiceError } from "../../shared/errors.ts";
import type { Region } from "./region.ts";

/** Whose objects they are, and where these must be; null: anywhere. */
export interface ObjectOwner {
  tenant: string;
  jurisdiction: Jurisdiction | null;
}

/** No other name has a colon. */
export function nameIn(jurisdiction: Jurisdiction | null, name: string): string {
  return jurisdiction === null ? name : `${jurisdiction}:${name}`;
}

/** The name of what belongs to a tenant alone: its own ledger, and its adapters. */
export function ownName({ tenant, jurisdiction }: ObjectOwner): string {
  return nameIn(jurisdiction, tenant);
}

/** null: anywhere. */
export function jurisdictionOf(name: string): Jurisdiction | null {
  return jurisdictions.find((one) => name.startsWith(`${one}:`)) ?? null;
}

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
