@echo off
rem Installs the NVIDIA driver of this disc in a Windows guest, without questions.
rem Run it as administrator. It does not reboot: do that when it suits you.
setlocal
net session >nul 2>&1
if errorlevel 1 (
  echo install.cmd: run it as administrator: right click, "Run as administrator"
  exit /b 1
)
set driver=
for %%f in ("%~dp0*_grid_*.exe") do set driver=%%f
if "%driver%"=="" (
  echo install.cmd: this disc has no driver for Windows
  exit /b 1
)
echo install.cmd: installing %driver%
"%driver%" -s -noreboot
if errorlevel 2 (
  echo install.cmd: the installer ended with %errorlevel%
  exit /b 1
)
if exist "%~dp0token\*.tok" (
  mkdir "%ProgramFiles%\NVIDIA Corporation\vGPU Licensing\ClientConfigToken" 2>nul
  copy /y "%~dp0token\*.tok" "%ProgramFiles%\NVIDIA Corporation\vGPU Licensing\ClientConfigToken\" >nul
  echo install.cmd: put the licence token into place
  net stop NVDisplay.ContainerLocalSystem >nul 2>&1
  net start NVDisplay.ContainerLocalSystem >nul 2>&1
)
echo install.cmd: done; reboot this guest
