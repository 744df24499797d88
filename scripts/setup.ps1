# Makes the environment on Windows and prints how to enter it, as setup.sh does elsewhere:
#   powershell -ExecutionPolicy Bypass -File scripts\setup.ps1 [requirements-onnx.txt]
# The argument names a further requirements file. Uses the active virtual environment, or makes
# .venv in the repository. Installs only if the requirements have changed since the last time.
param([string]$Extra = "")

$repository = Split-Path -Parent $PSScriptRoot
$venv = if ($env:VIRTUAL_ENV) { $env:VIRTUAL_ENV } else { Join-Path $repository ".venv" }
$python = Join-Path $venv "Scripts\python.exe"

function Stop-Setup([string]$sentence) {
    [Console]::Error.WriteLine("error: $sentence")
    exit 2
}

# The launcher `py` finds each Python that is installed; `python` may be only the Store's pointer.
function Find-Python {
    $check = "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"
    foreach ($words in @("py -3.13", "py -3.12", "py -3.11", "python")) {
        $name, $version = $words -split " "
        if (Get-Command $name -ErrorAction SilentlyContinue) {
            & $name @($version | Where-Object { $_ }) -c $check 2>$null
            if ($LASTEXITCODE -eq 0) { return $words }
        }
    }
    Stop-Setup "Python 3.11 to 3.13 is missing; install it from python.org."
}

if (-not (Test-Path $python)) {
    if ($env:VIRTUAL_ENV) {
        Stop-Setup "VIRTUAL_ENV is $venv, which has no Scripts\python.exe; deactivate it."
    }
    $name, $version = (Find-Python) -split " "
    Write-Host "Making the environment $venv ..."
    & $name @($version | Where-Object { $_ }) -m venv $venv
    if ($LASTEXITCODE -ne 0) { Stop-Setup "$venv cannot be made." }
}

$lock = if ($Extra -eq "requirements-dev.txt") { "requirements-dev.lock" } else { "requirements.lock" }
$names = @($lock, "constraints.txt", $Extra) | Where-Object { $_ }
$hashes = $names | ForEach-Object { (Get-FileHash (Join-Path $repository $_)).Hash }
$stamp = Join-Path $venv ".squeezenext-$(if ($Extra) { $Extra } else { 'requirements.txt' })"
$wanted = $hashes -join "-"
if (-not (Test-Path $stamp) -or (Get-Content $stamp) -ne $wanted) {
    Write-Host "Installing $lock (some minutes, without output) ..."
    $pip = @("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    & $python @pip --require-hashes -r (Join-Path $repository $lock)
    if ($LASTEXITCODE -ne 0) { exit 1 }
    if ($Extra -and $Extra -ne "requirements-dev.txt") {
        & $python @pip -r (Join-Path $repository $Extra) -c (Join-Path $repository "constraints.txt")
        if ($LASTEXITCODE -ne 0) { exit 1 }
    }
    Set-Content $stamp $wanted
}
Write-Host "Enter it with: $(Join-Path $venv 'Scripts\Activate.ps1')"
