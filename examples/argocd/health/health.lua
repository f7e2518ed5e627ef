-- How an object of Lockstep fares, by its conditions. No status means that the controller has not looked at it yet, never that all is well.
local hs = { status = "Progressing", message = "the controller has not looked at it yet" }
if obj.status == nil or obj.status.conditions == nil then
  return hs
end
if obj.status.observedGeneration ~= nil and obj.metadata.generation ~= nil and obj.status.observedGeneration ~= obj.metadata.generation then
  hs.message = "the controller has not looked at the change yet"
  return hs
end
local conditions = {}
for _, c in ipairs(obj.status.conditions) do
  conditions[c.type] = c
end
local ready, stalled, reconciling = conditions["Ready"], conditions["Stalled"], conditions["Reconciling"]
if ready ~= nil then
  hs.message = ready.reason .. ": " .. (ready.message or "")
end
if stalled ~= nil and stalled.status == "True" then
  hs.status = "Degraded"
  hs.message = stalled.reason .. ": " .. (stalled.message or "")
elseif reconciling ~= nil and reconciling.status == "True" then
  hs.status = "Progressing"
elseif ready ~= nil and ready.status == "True" then
  hs.status = "Healthy"
  if ready.reason == "Suspended" then
    hs.status = "Suspended"
  end
elseif ready ~= nil and ready.status == "False" and obj.kind ~= "RestorePoint" and obj.kind ~= "Restore" then
  hs.status = "Degraded" -- what stands, and does not keep its promise; a point or a restore is still on its way
end
return hs
