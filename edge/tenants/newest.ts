/** A bounded memory of an isolate's: what anybody can make up names for must not grow without end. */

/** Sets an entry and makes it the newest; of more than `most` the oldest is forgotten. */
export function setNewest<Key, Value>(map: Map<Key, Value>, key: Key, value: Value, most: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > most) map.delete(map.keys().next().value!);
}
