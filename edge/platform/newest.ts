/** A bounded map, for entries whose names clients choose. */

/** Sets an entry as the newest one, and deletes the oldest where there are more than `most`. */
export function setNewest<Key, Value>(map: Map<Key, Value>, key: Key, value: Value, most: number): void {
  map.delete(key);
  map.set(key, value);
  if (map.size > most) map.delete(map.keys().next().value!);
}
