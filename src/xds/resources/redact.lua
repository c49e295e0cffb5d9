-- Masks a credential in what its upstream answers: in headers, in the body while it streams, in trailers.
--
-- What to look for comes with each request from the vault (ext_authz dynamic metadata), one needle a line, the longest
-- first. Every mask is as long as what it masks, so lengths and frames hold.
--
-- A needle may be split between chunks, so the end of a chunk that may be the beginning of one has to be remembered:
--   * With a content-length no trailers follow, and the end of the body is seen: that end is held back.
--   * Otherwise trailers may end the body (gRPC, and whatever was decompressed), and a script can add nothing before them:
--     what is held back would be lost. There the chunk goes on at once. The first few characters of a needle pass, since
--     innocent text has them, too; from then on it is masked.
--
-- Envoy lets a response through when a script fails. So nothing here may fail: it all runs in pcall. After an error, an answer
-- that has not begun is refused; of one that has, all that follows is masked, at its length, so that the next answer on the
-- connection is not taken for the rest of this one.

local find, gmatch, rep, sub = string.find, string.gmatch, string.rep, string.sub
local concat = table.concat
local max, min = math.max, math.min

-- How many characters of a needle's beginning pass where nothing is held back; of short needles less than half.
local PASSES = 5

-- What was parsed, by its text; needles are the same for all requests with one credential.
local known, count = {}, 0

local function parse(text)
  local needles = known[text]
  if needles then return needles end
  if count == 256 then known, count = {}, 0 end
  needles = { longest = 0, passes = PASSES, bytes = text, first = {} }
  for needle in gmatch(text, "[^\n]+") do
    needles[#needles + 1] = needle
    needles.first[#needles] = sub(needle, 1, 1)
    needles.longest = max(needles.longest, #needle)
    needles.passes = min(needles.passes, (#needle - 1 - (#needle - 1) % 2) / 2)
  end
  known[text], count = needles, count + 1
  return needles
end

local function masked(text, needles)
  for i = 1, #needles do
    local needle = needles[i]
    local from, to = find(text, needle, 1, true)
    if from then
      local parts, n, at, mask = {}, 0, 1, rep("*", #needle)
      while from do
        parts[n + 1], parts[n + 2], n, at = sub(text, at, from - 1), mask, n + 2, to + 1
        from, to = find(text, needle, at, true)
      end
      parts[n + 1] = sub(text, at)
      text = concat(parts)
    end
  end
  return text
end

-- How many bytes at the end of the text are the beginning of a needle, and not all of it.
local function begun(text, needles)
  -- Most texts end with a byte that is in none.
  if not find(needles.bytes, sub(text, -1), 1, true) then return 0 end
  local length, most = #text, 0
  for i = 1, #needles do
    local needle = needles[i]
    local at = find(text, needles.first[i], max(1, length - #needle + 2), true)
    while at and length - at + 1 > most do
      local size = length - at + 1
      if sub(text, at) == sub(needle, 1, size) then
        most = size
      else
        at = find(text, needles.first[i], at + 1, true)
      end
    end
  end
  return most
end

local function mask_headers(headers, needles)
  local values, n = {}, 0
  for _, value in pairs(headers) do
    n = n + 1
    values[n] = value
  end
  local all = concat(values, "\n")
  if masked(all, needles) == all then return end
  local found = {}
  for name, value in pairs(headers) do
    -- A length is no credential, and frames depend on it.
    if name ~= "content-length" and masked(value, needles) ~= value then found[name] = true end
  end
  for name in pairs(found) do
    local again = {}
    for other, value in pairs(headers) do
      if other == name then again[#again + 1] = masked(value, needles) end
    end
    headers:remove(name)
    for i = 1, #again do headers:add(name, again[i]) end
  end
end

-- Chunks are Lua strings, which wait to be collected; those of a body that decodes to very much would fill the memory.
local UNCOLLECTED = 8 * 1024 * 1024
local uncollected = 0

local function collect(bytes)
  uncollected = uncollected + bytes
  if uncollected > UNCOLLECTED then
    uncollected = 0
    collectgarbage()
  end
end

-- `state.chunks` gives the chunks; Envoy lets a script ask for that once, before the first one. `state.chunk` is the last one that
-- was given out: it may be set until Envoy goes on with it. `state.length` is how long it came, which has to be known before it is
-- set, and `state.carried` how much of what came before it goes on with it.
local function mask_body(needles, state, hold)
  local carry, bytes = "", ""
  for chunk in state.chunks do
    -- First of all: what is not known here goes on as it is.
    state.chunk, state.length, state.carried = chunk, nil, hold and #carry or 0
    local length = chunk:length()
    state.length = length
    if length > 0 then
      bytes = chunk:getBytes(0, length)
      local text = masked(carry == "" and bytes or carry .. bytes, needles)
      local open = begun(text, needles)
      local out
      if hold then
        out = open == 0 and text or sub(text, 1, #text - open)
      else
        -- What was carried has gone on before.
        out = carry == "" and text or sub(text, #carry + 1)
        if open > needles.passes then
          local mask = min(open, #out)
          out = sub(out, 1, #out - mask) .. rep("*", mask)
        end
      end
      carry = open == 0 and "" or sub(text, -open)
      if out ~= bytes then chunk:setBytes(out) end
      bytes = hold and out or ""
      text, out = nil, nil
      collect(length)
    else
      bytes = ""
    end
  end
  -- It was no needle. Still the chunk that ended the body.
  if hold and carry ~= "" then state.chunk:setBytes(bytes .. carry) end
end

local function mask_trailers(handle, needles)
  local trailers = handle:trailers()
  if not trailers then return end
  mask_headers(trailers, needles)
  -- The decompressors' notes.
  local notes = {}
  for name in pairs(trailers) do
    if find(name, "x-envoy-decompressor-", 1, true) == 1 then notes[#notes + 1] = name end
  end
  for i = 1, #notes do trailers:remove(notes[i]) end
end

-- One that cannot be removed is emptied, and keeps no other from being removed.
local function remove_all(headers)
  local names = {}
  for name in pairs(headers) do names[#names + 1] = name end
  for i = 1, #names do
    local name = names[i]
    if sub(name, 1, 1) ~= ":" and not pcall(headers.remove, headers, name) then
      pcall(headers.replace, headers, name, "")
    end
  end
end

-- Instead of an answer that cannot be looked into.
local function refuse(handle, state, text)
  local headers = handle:headers()
  remove_all(headers)
  headers:replace(":status", "502")
  headers:replace("content-type", "text/plain; charset=utf-8")
  for chunk in state.chunks do
    state.chunk, state.length, state.carried = chunk, 0, 0
    chunk:setBytes(text)
    text = ""
  end
end

local function look_into_body(handle, needles, state)
  local headers = handle:headers()
  local encoding = headers:get("content-encoding")
  if encoding and encoding ~= "identity" then
    local status = headers:get(":status")
    if status == "204" or status == "304" then return end
    refuse(handle, state, "Bad Gateway: the upstream's answer has a content-encoding in which agent-creds cannot look for "
      .. "the credential. Ask for gzip, or for none.\n")
  else
    mask_body(needles, state, headers:get("content-length") ~= nil)
  end
end

local function redact(handle, state)
  local told = handle:streamInfo():dynamicMetadata():get("envoy.filters.http.ext_authz")
  local needles = parse(told["redact"])
  mask_headers(handle:headers(), needles)
  if told["redact_body"] then look_into_body(handle, needles, state) end
  mask_trailers(handle, needles)
end

local function mask_chunk(state)
  local chunk = state.chunk
  if chunk then chunk:setBytes(rep("*", state.carried + (state.length or chunk:length()))) end
end

local function mask_the_rest(state)
  -- Envoy may have gone on with it.
  pcall(mask_chunk, state)
  for chunk in state.chunks do chunk:setBytes(rep("*", chunk:length())) end
end

local function remove_trailers(handle)
  local trailers = handle:trailers()
  if trailers then remove_all(trailers) end
end

function envoy_on_response(handle)
  local state = { chunks = handle:bodyChunks() }
  local ok, problem = pcall(redact, handle, state)
  if ok then return end
  local refused = not state.chunk
    and pcall(refuse, handle, state, "Bad Gateway: agent-creds could not look for the credential.\n")
  if not refused then pcall(mask_the_rest, state) end
  pcall(remove_trailers, handle)
  handle:logErr("an answer was refused, or its rest masked: " .. tostring(problem))
end
