/** Short descriptions of untrusted values for error messages. Pure. */

const shownCharacters = 40;
/** Maximum length of a list that is shown whole. Any tensor's shape fits. */
const shownNumbers = 8;

export function describe(value: unknown): string {
  if (typeof value === "string") {
    return JSON.stringify(value.length > shownCharacters ? `${value.slice(0, shownCharacters)}…` : value);
  }
  if (typeof value !== "object" || value === null) return String(value);
  if (!Array.isArray(value)) return "an object";
  const isShort = value.length <= shownNumbers && value.every((item) => typeof item === "number");
  return isShort ? `[${value}]` : `a list of ${value.length}`;
}
