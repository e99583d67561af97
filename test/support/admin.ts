/** The admin API of a started stack, called with the key that its own commands find. */
import { readLocalRun } from "../../infra/local-run.ts";
import { type NewKey, newKeySchema } from "../../shared/contracts/admin.ts";

/** Throws an Error with the answer unless that is a success. */
export async function callAdmin(state: string, method: string, path: string, body?: object): Promise<unknown> {
  const { edge, adminKey } = readLocalRun(state)!;
  const response = await fetch(`${edge}/admin/v1${path}`, {
    method,
    headers: { authorization: `Bearer ${adminKey}`, "content-type": "application/json" },
    ...(body && { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  if (!response.ok) throw new Error(`${method} ${path} was answered ${response.status}: ${text}`);
  return JSON.parse(text);
}

/** A key with every scope, or with `scopes`. */
export async function newKeyOf(state: string, tenant: string, scopes?: readonly string[]): Promise<NewKey> {
  return newKeySchema.parse(await callAdmin(state, "POST", "/keys", { tenant, ...(scopes && { scopes }) }));
}
